//! The path of a call: to its service, through layers if the client has some.

use std::sync::Arc;

use futures_util::future::ready;

use super::carrier::Carrier;
use super::middleware::LayeredCaller;
use super::observed::{Calling, observed};
use super::slot::Slot;
use crate::telemetry::CallKind;

/// How calls reach the service.
#[derive(Debug, Clone)]
pub(crate) enum CallPath {
    Direct(Carrier),
    /// Through layers.
    Layered(Arc<LayeredCaller>),
}

impl CallPath {
    /// Makes a call and waits for its reply, within its time.
    pub(crate) fn call(self, call: Arc<Slot>) -> Calling {
        let plan = call.plan();
        match (self, plan.time_limit()) {
            (_, Err(too_late)) => observed(CallKind::Direct, call, |_| Box::pin(ready(Err(too_late)))),
            (Self::Direct(carrier), Ok(time)) => {
                observed(CallKind::Direct, call, |call| carrier.send(call, time))
            }
            (Self::Layered(caller), Ok(time)) => observed(CallKind::Layered, call, |call| {
                Box::pin(async move { caller.call(call.plan(), time).await })
            }),
        }
    }
}
