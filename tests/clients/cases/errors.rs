//! Calls that fail, and whether their methods ran.

use anyhow::{Result, ensure};
use rpc_conformance::{Refusal, Rejection};
use rpc_runtime::{CallError, Executed, FaultCode};
use rpc_tests::rabbit::unique;

use super::{Caller, Skipped, is_error, is_fault, values};
use rpc_conformance::ConformanceClient;

/// The errors of `refuse`, by number.
pub(super) const REFUSALS: [Refusal; 4] = [
    Refusal::UnknownUser { id: u64::MAX },
    Refusal::Closed,
    Refusal::TooMany(u32::MAX),
    Refusal::NotBetween(i64::MIN, i64::MAX),
];

pub(super) async fn refusal(caller: &Caller) -> Result<()> {
    ensure!(caller.client.refuse(u64::MAX, None).await? == u64::MAX);
    for (number, expected) in (0..).zip(REFUSALS) {
        let outcome = caller.client.refuse(1, Some(number)).await;
        let error = outcome.as_ref().unwrap_err();
        ensure!(
            error.executed() == Executed::Yes && !error.is_retryable(),
            "{error:?}"
        );
        is_error(outcome, &expected)?;
    }
    Ok(())
}

pub(super) async fn rejection(caller: &Caller) -> Result<()> {
    caller.client.reject(0).await?;
    let expected = Rejection {
        code: u16::MAX,
        reason: "code 65535".into(),
    };
    is_error(caller.client.reject(u16::MAX).await, &expected)
}

pub(super) async fn complaint(caller: &Caller) -> Result<()> {
    ensure!(matches!(caller.client.complain("").await, Ok(0)));
    for text in values::TEXTS.into_iter().filter(|text| !text.is_empty()) {
        is_error(caller.client.complain(text).await, &text.to_owned())?;
    }
    Ok(())
}

pub(super) async fn shape_as_error(caller: &Caller) -> Result<()> {
    let outcome = caller.client.fail_with_shape(None).await;
    ensure!(outcome.is_ok(), "{outcome:?}");
    for shape in values::shapes() {
        is_error(caller.client.fail_with_shape(Some(shape.clone())).await, &shape)?;
    }
    Ok(())
}

pub(super) async fn panic(caller: &Caller) -> Result<()> {
    is_fault(caller.client.panic().await, &FaultCode::Panicked, Executed::Yes)
}

pub(super) async fn unknown_method(caller: &Caller) -> Result<()> {
    is_fault(
        caller.foreign.unknown().await,
        &FaultCode::UnknownMethod,
        Executed::No,
    )
}

pub(super) async fn argument_of_another_type(caller: &Caller) -> Result<()> {
    let outcome = caller.foreign.echo_u8("seven").await;
    is_fault(outcome, &FaultCode::BadRequest, Executed::No)
}

pub(super) async fn missing_argument(caller: &Caller) -> Result<()> {
    is_fault(
        caller.foreign.echo_i16().await,
        &FaultCode::BadRequest,
        Executed::No,
    )
}

/// Other languages notice it at run time: nothing is sent.
pub(super) async fn invalid_argument(_: &Caller) -> Result<()> {
    Err(Skipped("the compiler refuses arguments of other types").into())
}

pub(super) async fn no_server(caller: &Caller) -> Result<()> {
    let queue = unique("missing");
    let client = ConformanceClient::builder(&caller.broker).queue(&queue).build();
    let error = client.double(1).await.unwrap_err();
    ensure!(
        matches!(&error, CallError::NoServer { queue: missing, .. } if *missing == queue),
        "{error:?}"
    );
    ensure!(error.executed() == Executed::No && error.is_retryable());
    Ok(())
}

pub(super) async fn request_too_large(caller: &Caller) -> Result<()> {
    let error = caller.client.echo_text(&"x".repeat(16 << 20)).await.unwrap_err();
    let is_too_large = matches!(
        error,
        CallError::TooLarge {
            limit: 16_777_216,
            ..
        }
    );
    ensure!(is_too_large && error.executed() == Executed::No, "{error:?}");
    Ok(())
}

/// Workers of these tests send no more than a mebibyte.
pub(super) async fn reply_too_large(caller: &Caller) -> Result<()> {
    let parts = futures_util::stream::iter([vec![0; 600 << 10], vec![0; 600 << 10]]);
    let outcome = caller.client.concat(u32::MAX, parts).await;
    let outcome = outcome.map(|whole| whole.len());
    is_fault(outcome, &FaultCode::ReplyTooLarge, Executed::Yes)
}
