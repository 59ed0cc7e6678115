//! What lapin's errors mean to the layers above.

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::ShortString;

use crate::error::{BrokerError, Cause};

/// Maps an error of lapin. A soft error closes only the channel, and the connection stays open. Any
/// other error counts as a loss of the connection, unless lapin has no free channel number.
pub(super) fn broker_error(error: lapin::Error) -> BrokerError {
    let closes_channel = error.is_amqp_soft_error();
    let is_channel_limit = is_channel_limit(&error);
    let source = Cause::new(error);
    if closes_channel {
        BrokerError::ChannelClosed { source }
    } else if is_channel_limit {
        BrokerError::TooManyChannels { source }
    } else {
        BrokerError::Lost { source: Some(source) }
    }
}

/// Like [`broker_error`], but a soft error is the broker's refusal of this queue.
pub(super) fn queue_error(queue: &str, error: lapin::Error) -> BrokerError {
    match broker_error(error) {
        BrokerError::ChannelClosed { source } => BrokerError::Queue {
            queue: queue.to_owned(),
            // RabbitMQ 3.10 refuses a queue whose node is down with NOT_FOUND and this text.
            is_temporary: source.to_string().contains("is down or inaccessible"),
            source,
        },
        error => error,
    }
}

/// Like [`broker_error`], but a soft error is the broker's refusal to `action` this exchange, for
/// example to `declare` it.
pub(super) fn exchange_error(exchange: &str, action: &'static str, error: lapin::Error) -> BrokerError {
    match broker_error(error) {
        BrokerError::ChannelClosed { source } => BrokerError::Exchange {
            exchange: exchange.to_owned(),
            action,
            source,
        },
        error => error,
    }
}

/// Maps an error of opening a channel. RabbitMQ closes the connection with `not_allowed` if the
/// user already has as many channels as it may have.
pub(super) fn channel_error(error: BrokerError) -> BrokerError {
    match error {
        BrokerError::Lost { source: Some(source) } if is_not_allowed(&source) => {
            BrokerError::TooManyChannels { source }
        }
        error => error,
    }
}

/// Whether the error means that the queue or exchange does not exist.
pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else {
        return false;
    };
    matches!(error.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}

/// Whether the cause is that lapin itself refused to open a channel; see [`is_channel_limit`].
pub(super) fn is_refused_by_lapin(cause: &Cause) -> bool {
    cause.downcast_ref().is_some_and(is_channel_limit)
}

/// Whether lapin refused to open a channel because of the negotiated `channel_max`. The connection
/// stays open.
fn is_channel_limit(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ChannelsLimitReached)
}

/// Whether the broker closed the connection with `not_allowed`, its answer to a channel too many.
fn is_not_allowed(cause: &Cause) -> bool {
    let error = cause.downcast_ref::<lapin::Error>().map(lapin::Error::kind);
    let Some(ErrorKind::ProtocolError(error)) = error else {
        return false;
    };
    matches!(error.kind(), AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED))
}

/// Returns the cause if the broker closed the connection with a hard error, such as
/// `INTERNAL_ERROR`: RabbitMQ's answer to violations of the protocol, and to some operations that
/// it refuses.
///
/// Returns `None` for any other error, and for `CONNECTION_FORCED`: an operator closed the
/// connection or shut the broker down.
pub(super) fn hard_close_reason(error: &BrokerError) -> Option<Cause> {
    let BrokerError::Lost { source: Some(source) } = error else {
        return None;
    };
    let lapin = source.downcast_ref::<lapin::Error>()?;
    let ErrorKind::ProtocolError(protocol) = lapin.kind() else {
        return None;
    };
    match protocol.kind() {
        AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) | AMQPErrorKind::Soft(_) => None,
        AMQPErrorKind::Hard(_) => Some(source.clone()),
    }
}

/// Converts a name to an AMQP short string. Fails if it is longer than 255 bytes.
pub(super) fn short(name: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(name).map_err(|_| BrokerError::Unsendable {
        reason: "a name is longer than 255 bytes",
    })
}
