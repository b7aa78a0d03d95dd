//! Interrupts of requests that a queue has, and no handler yet.

use super::bad_input::Served;
use crate::abi::{InHeader, Opcode, Pod, UringEntInOut};
use crate::interrupt;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

const TARGET: u64 = 6;

/// Longer than an interrupt waits for a request that another channel may have read.
const LONG: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
#[cfg_attr(miri, ignore = "needs io_uring")]
async fn an_interrupt_waits_until_the_request_has_a_handler() {
    let Some(served) = Served::new() else { return };
    let Served { shared, lane, queue, index, area } = &served;
    let len = (size_of::<InHeader>() + 2) as u32;
    let header =
        InHeader { len, opcode: Opcode::Lookup.code(), unique: TARGET, nodeid: 1, ..Default::default() };
    let entry = UringEntInOut { payload_sz: 2, ..Default::default() };
    area.set_request(header.as_bytes(), &[], b"x\0", &entry);
    queue.complete(*index);
    assert_eq!(queue.completion(), Some((*index, 0)));
    let arrived = queue.arrived(*index).map_err(|(_, error)| error).unwrap();
    let ticket = queue.ticket(&arrived);
    interrupt::deliver(shared.clone(), lane.clone(), TARGET | 1, TARGET);
    // As when its thread waits for memory.
    sleep(LONG).await;
    let slot = lane.inflight.try_acquire().unwrap();
    slot.assign(TARGET, 0);
    timeout(LONG, slot.interrupted()).await.expect("the interrupt");
    drop((slot, ticket));
}

#[tokio::test(start_paused = true)]
#[cfg_attr(miri, ignore = "needs io_uring")]
async fn an_interrupt_of_what_has_been_answered_ends() {
    let Some(served) = Served::new() else { return };
    interrupt::deliver(served.shared.clone(), served.lane.clone(), TARGET | 1, TARGET);
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);
    sleep(LONG).await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
}
