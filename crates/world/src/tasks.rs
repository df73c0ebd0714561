//! Tasks, worker threads and timers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;

use crate::processes::{NoProcesses, Processes};

/// Where work runs. The real one is tokio; the simulated one is a single seeded thread that runs blocking and computing
/// work in place.
pub trait Tasks: Send + Sync {
    /// Runs a future beside the caller.
    fn spawn(&self, future: BoxFuture<'static, ()>);
    /// Runs work that waits (files) on a thread of its own.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>);
    /// Runs work that computes, bounded by the number of processors.
    fn compute(&self, work: Box<dyn FnOnce() + Send>);
    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// How many pieces of computing work run at once.
    fn processors(&self) -> usize;
    /// Programs that can be started; by default none can.
    fn processes(&self) -> Arc<dyn Processes> {
        Arc::new(NoProcesses)
    }
}

/// A running task; awaiting it gives its result. Dropping it lets the task go on.
pub struct Task<T>(oneshot::Receiver<T>);

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // The sender disappears without a value only when the task panicked or the runtime is going down.
        Pin::new(&mut self.0).poll(cx).map(|result| result.expect("the task ran to its end"))
    }
}

pub(crate) fn spawn<T: Send + 'static>(tasks: &dyn Tasks, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    let (done, result) = oneshot::channel();
    tasks.spawn(Box::pin(async move {
        // The caller may have lost interest; that is not an error.
        let _ = done.send(future.await);
    }));
    Task(result)
}

pub(crate) fn blocking<T: Send + 'static>(tasks: &dyn Tasks, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    let (done, result) = oneshot::channel();
    tasks.blocking(Box::new(move || {
        let _ = done.send(work());
    }));
    Task(result)
}

pub(crate) fn compute<T: Send + 'static>(tasks: &dyn Tasks, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    let (done, result) = oneshot::channel();
    tasks.compute(Box::new(move || {
        let _ = done.send(work());
    }));
    Task(result)
}
