//! The trace id of the request being handled: a task-local, so that calls made for a request carry its id, and the
//! log lines of all servers that had a part in it can be found together.

use std::future::Future;

tokio::task_local! {
    static CURRENT: u32;
}

/// The id of the request on whose behalf this task runs.
pub fn current() -> Option<u32> {
    CURRENT.try_with(|id| *id).ok()
}

/// Runs `future` on behalf of request `id`.
pub fn scope<F: Future>(id: u32, future: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(id, future)
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn is_inherited_by_awaited_futures_only() {
        assert_eq!(super::current(), None);
        super::scope(7, async {
            assert_eq!(super::current(), Some(7));
            assert_eq!(tokio::spawn(async { super::current() }).await.unwrap(), None);
        })
        .await;
        assert_eq!(super::current(), None);
    }
}
