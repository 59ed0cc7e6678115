//! Runs a future within a span.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tracing::Span;

pin_project! {
    /// Enters a span whenever the future is polled, and when it is dropped. Unlike `tracing`'s
    /// `Instrumented`, it borrows the span, and drops the future as soon as it is ready: entering a
    /// span once more costs as much as counting the call.
    pub(super) struct InSpan<'a, F> {
        #[pin]
        future: Option<F>,
        span: &'a Span,
    }

    impl<F> PinnedDrop for InSpan<'_, F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                let _entered = this.span.enter();
                this.future.set(None);
            }
        }
    }
}

impl<'a, F> InSpan<'a, F> {
    pub(super) fn new(future: F, span: &'a Span) -> Self {
        Self {
            future: Some(future),
            span,
        }
    }
}

impl<F: Future> Future for InSpan<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            panic!("a future is polled after it was ready");
        };
        let _entered = this.span.enter();
        let output = ready!(future.poll(cx));
        this.future.set(None);
        Poll::Ready(output)
    }
}
