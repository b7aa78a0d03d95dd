//! Running out of file descriptors. In a binary of its own, since the limit is the process's.

mod support;

use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use support::{client, echo, serve};
use tokio::time::{sleep, timeout};
use valor_env::{Endpoint, Env};

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

async fn connect_until_impossible(to: &Endpoint) -> Vec<valor_env::Stream> {
    let mut streams = Vec::new();
    while let Ok(stream) = Env::real().connect(to).await {
        streams.push(stream);
        tokio::task::yield_now().await;
    }
    streams
}

#[tokio::test]
async fn a_server_without_descriptors_serves_those_it_has() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(120);
    setrlimit(Resource::Nofile, limit).unwrap();
    let (server, to) = serve(support::sleeper());
    let client = client();
    echo(&client, &to, "first").await.unwrap();

    let mut streams = connect_until_impossible(&to).await;
    assert!(streams.len() > 30, "{}", streams.len());
    assert_eq!(echo(&client, &to, "with all taken").await.unwrap(), "with all taken");

    // Some more wait in the backlog: accepting them fails, which must not keep the thread busy.
    drop(streams.pop());
    let waiting = Env::real().connect(&to).await.unwrap();
    let (began, cpu) = (Instant::now(), cpu_time());
    sleep(Duration::from_millis(500)).await;
    assert!(cpu_time() - cpu < began.elapsed() / 2, "accepting spins");
    assert_eq!(echo(&client, &to, "still").await.unwrap(), "still");

    // After a second the idle ones make room.
    let mut end = [0; 1];
    let ended =
        timeout(Duration::from_secs(20), streams[0].read(&mut end)).await.expect("closed to make room");
    assert!(matches!(ended, Ok(0) | Err(_)));
    drop((waiting, streams));
    let newcomer = support::client();
    assert_eq!(echo(&newcomer, &to, "new").await.unwrap(), "new");
    drop(server);
}
