//! The cases, as a caller in Rust runs them. Callers in other languages run cases of the same
//! names: see `python/cases` and `typescript/cases.ts`.

mod errors;
mod requests;
mod streams;
mod values;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures_util::future::LocalBoxFuture;
use rpc_conformance::ConformanceClient;
use rpc_runtime::{Broker, CallError, Codec, Executed, FaultCode};
use rpc_tests::rabbit::unique;

use crate::foreign::ForeignClient;

/// How long a call of a case may take. Generous, because other tests keep the machine busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// What cases call.
pub(crate) struct Caller {
    pub(crate) broker: Broker,
    pub(crate) codec: Codec,
    /// The queue of one worker.
    pub(crate) client: ConformanceClient,
    /// The queue that a worker of each language serves.
    pub(crate) everyone: ConformanceClient,
    /// The first queue, with another idea of the service.
    pub(crate) foreign: ForeignClient,
}

impl Caller {
    pub(crate) fn new(broker: &Broker, queue: &str, everyone: &str, codec: Codec) -> Self {
        let client = |queue| {
            let client = ConformanceClient::builder(broker).queue(queue).codec(codec);
            client.timeout(LIMIT).build()
        };
        let foreign = ForeignClient::builder(broker).queue(queue).codec(codec);
        Self {
            broker: broker.clone(),
            codec,
            client: client(queue),
            everyone: client(everyone),
            foreign: foreign.timeout(LIMIT).build(),
        }
    }

    /// Returns an entry that nobody else uses.
    pub(crate) fn entry(name: &str) -> String {
        unique(name)
    }
}

/// A case that this language cannot run, with the reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Skipped(pub(crate) &'static str);

/// One thing that must work between all languages.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Arc<Caller>) -> LocalBoxFuture<'static, Result<()>>,
}

macro_rules! cases {
    ($($module:ident: $($name:ident)*;)*) => {
        /// All cases.
        pub(crate) const CASES: &[Case] = &[$($(
            Case {
                name: stringify!($name),
                run: |caller| Box::pin(async move { $module::$name(&caller).await }),
            },
        )*)*];
    };
}

cases! {
    values: text bytes character truth unit i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64
        not_finite_numbers numbers containers person page tree user_id pair marker color direction
        shape event command scalar option list tuple map numbered;
    errors: refusal rejection complaint shape_as_error panic unknown_method argument_of_another_type
        missing_argument invalid_argument no_server request_too_large reply_too_large;
    requests: arguments default_argument alias unknown_argument names default_method header time_left
        many_calls deadline deadline_stops_the_method cancel notify job dying_job delayed_job
        broadcast failing_broadcast notifying_broadcast;
    streams: count failing_stream blobs little_credit left_early resumed many_streams sum
        sum_of_nothing concat refused_parts take answer check;
}

/// Calls a method that returns its argument, with each of these values.
macro_rules! echo {
    ($caller:expr, $method:ident, $values:expr) => {
        for value in $values {
            let back = $caller.client.$method(value.clone()).await?;
            anyhow::ensure!(back == value, "{value:?} came back as {back:?}");
        }
    };
}
use echo;

/// Fails unless the call was answered with this fault.
fn is_fault<T: Debug, E: Debug>(
    outcome: Result<T, CallError<E>>,
    code: &FaultCode,
    executed: Executed,
) -> Result<()> {
    match outcome {
        Err(error @ CallError::Fault(_)) => {
            let CallError::Fault(fault) = &error else {
                unreachable!()
            };
            ensure!(fault.code == *code, "{fault:?}");
            ensure!(error.executed() == executed, "{:?}", error.executed());
            Ok(())
        }
        other => bail!("expected {code:?}: {other:?}"),
    }
}

/// Fails unless the call failed with this error of its method.
fn is_error<T: Debug, E: Debug + PartialEq>(outcome: Result<T, CallError<E>>, expected: &E) -> Result<()> {
    match outcome {
        Err(CallError::Service(error)) if error == *expected => Ok(()),
        other => bail!("expected {expected:?}: {other:?}"),
    }
}
