//! How requests without a reply ask for the batch size of their method.

use crate::protocol::{BATCH_HEADER, Message, Properties, Request, ShortStr};
use crate::transport::Outgoing;

/// The question of a request without a reply: how many calls of its method to put into one batch.
#[derive(Debug)]
pub(in crate::server) struct BatchSizeAsk {
    /// Where the answer goes. Must be checked before the answer is sent.
    pub(in crate::server) address: ShortStr,
    pub(in crate::server) method: Option<ShortStr>,
    correlation_id: Option<ShortStr>,
}

impl BatchSizeAsk {
    /// Reads what a message that expects no reply asks. The sender names the address for the answer
    /// in the header `rpc-batch`. `None` if the header is missing, empty or too long.
    pub(in crate::server) fn of_message(message: &Message) -> Option<Self> {
        let properties = &message.properties;
        Some(Self {
            address: address(properties.headers.get(BATCH_HEADER)?)?,
            correlation_id: properties.correlation_id.clone(),
            method: properties.kind.clone(),
        })
    }

    /// Like [`of_message`](Self::of_message), for a request of a batch. Removes the header, so that
    /// a copy of the request does not ask again.
    pub(super) fn take(request: &mut Request) -> Option<Self> {
        let address = address(&request.headers.remove(BATCH_HEADER)?)?;
        Some(Self {
            address,
            correlation_id: request.correlation_id.clone(),
            method: request.method.clone(),
        })
    }

    /// Returns the answer.
    pub(in crate::server) fn answer(self, batch_size: u16) -> Outgoing {
        let mut properties = Properties {
            correlation_id: self.correlation_id,
            ..Properties::default()
        };
        let name = ShortStr::from_static(BATCH_HEADER);
        properties.headers.insert(name, batch_size.to_string());
        Outgoing {
            queue: self.address,
            mandatory: false,
            message: Message {
                properties,
                ..Message::default()
            },
            send_token: None,
        }
    }
}

/// Returns the address that a header names. `None` if it is empty or too long.
fn address(header: &str) -> Option<ShortStr> {
    ShortStr::new(header)
        .ok()
        .filter(|address| !address.as_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(header: Option<&str>) -> Message {
        let mut message = Message::default();
        message.properties.kind = Some(ShortStr::from_static("send"));
        message.properties.correlation_id = Some(ShortStr::from_static("7"));
        if let Some(header) = header {
            let name = ShortStr::from_static(BATCH_HEADER);
            message.properties.headers.insert(name, header.to_owned());
        }
        message
    }

    #[test]
    fn an_answer_goes_to_the_address_in_the_header() {
        let ask = BatchSizeAsk::of_message(&message(Some("rpc.reply.1"))).unwrap();
        let answer = ask.answer(7);
        assert_eq!(answer.queue.as_str(), "rpc.reply.1");
        let properties = answer.message.properties;
        assert_eq!(properties.correlation_id, Some(ShortStr::from_static("7")));
        assert_eq!(properties.headers.get(BATCH_HEADER), Some("7"));
    }

    #[test]
    fn a_request_without_an_address_does_not_ask() {
        let too_long = "x".repeat(256);
        for header in [None, Some(""), Some(too_long.as_str())] {
            assert!(BatchSizeAsk::of_message(&message(header)).is_none());
        }
    }

    #[test]
    fn the_header_of_a_batched_request_is_taken() {
        let mut request = Request::from_message(message(None)).unwrap();
        let name = ShortStr::from_static(BATCH_HEADER);
        request.headers.insert(name, "rpc.reply.1".to_owned());
        assert!(BatchSizeAsk::take(&mut request).is_some());
        assert!(BatchSizeAsk::take(&mut request).is_none());
        assert!(request.headers.is_empty());
    }
}
