//! The operations of a document.

use serde_json::{Map, Value, json};

use super::channels::Channel;
use super::messages::MethodMessages;
use super::options::View;
use super::parts::{BINDING_VERSION, add_description};
use crate::references::DocumentKeys;
use crate::{MethodDescription, RetryDescription};

// AMQP's delivery modes.
const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;

/// Returns the operations of all methods and of the items for them, in the view of a program.
/// `fault` is the name of the message that replaces a method's reply.
pub(super) fn all(
    methods: &[(&MethodDescription, MethodMessages)],
    fault: &str,
    view: View,
) -> Map<String, Value> {
    let of_methods = methods
        .iter()
        .map(|(method, messages)| (method.name.clone(), of_method(method, messages, fault, view)));
    let of_items = methods.iter().filter_map(|(method, messages)| {
        let operation = of_items(method, messages, view)?;
        Some((format!("{}.items", method.name), operation))
    });
    let (names, operations): (Vec<_>, Vec<_>) = of_methods.chain(of_items).unzip();
    let keys = DocumentKeys::new(names.iter().map(String::as_str));
    keys.in_order().map(str::to_owned).zip(operations).collect()
}

/// Returns the operation of a method.
fn of_method(method: &MethodDescription, messages: &MethodMessages, fault: &str, view: View) -> Value {
    let channel = Channel::of_requests(method);
    let mut operation = json!({
        "action": action(view),
        "title": method.name,
        "channel": channel.reference(),
        "messages": [channel.message(&messages.request)],
        "bindings": {"amqp": binding(method)},
    });
    if !method.is_oneway {
        let replies = messages.replies.iter().map(String::as_str).chain([fault]);
        operation["reply"] = json!({
            "address": {
                "description": "The property `reply_to`.",
                "location": "$message.header#/reply_to",
            },
            "channel": Channel::Replies.reference(),
            "messages": replies.map(|name| Channel::Replies.message(name)).collect::<Vec<_>>(),
        });
    }
    let tags = tags(method);
    if !tags.is_empty() {
        operation["tags"] = json!(tags);
    }
    if let Some(summary) = method.docs.lines().next().filter(|line| !line.is_empty()) {
        operation["summary"] = json!(summary);
    }
    add_description(&mut operation, &method.docs);
    operation
}

/// Returns the operation of the items that a method's caller sends while it runs. `None` if it
/// sends none.
fn of_items(method: &MethodDescription, messages: &MethodMessages, view: View) -> Option<Value> {
    let items = messages.items.as_ref()?;
    Some(json!({
        "action": action(view),
        "title": format!("Items for {}", method.name),
        "channel": Channel::Items.reference(),
        "messages": [Channel::Items.message(items)],
        "bindings": {"amqp": {"deliveryMode": TRANSIENT, "bindingVersion": BINDING_VERSION}},
    }))
}

/// What the program does with requests, and with the items that follow them.
fn action(view: View) -> &'static str {
    match view {
        View::Caller => "send",
        View::Worker => "receive",
    }
}

/// Returns the AMQP binding of a method's operation.
fn binding(method: &MethodDescription) -> Value {
    // Nobody waits for a one-way request, so it has to survive a restart of the broker. A broadcast
    // does not: it is only for workers that are connected.
    let is_persistent = method.is_oneway && !method.is_broadcast;
    let mut binding = json!({
        "ack": true,
        "mandatory": true,
        "deliveryMode": if is_persistent { PERSISTENT } else { TRANSIENT },
        "bindingVersion": BINDING_VERSION,
    });
    if let Some(timeout) = method.timeout_ms.filter(|_| !method.is_oneway) {
        binding["expiration"] = json!(timeout);
    }
    binding
}

/// Returns tags that say how a method is called and run, except for its timeout, which is in the
/// binding.
fn tags(method: &MethodDescription) -> Vec<Value> {
    let known = [
        (method.is_default, "default", "Serves requests without a `type`."),
        (
            method.is_idempotent,
            "idempotent",
            "May run more than once: a request may be sent again or redelivered.",
        ),
        (method.is_oneway, "oneway", "Has no reply."),
        (
            method.is_broadcast,
            "broadcast",
            "All workers of the queue run it, instead of one of them.",
        ),
        (
            method.is_cancellable,
            "cancel",
            "Workers stop it once its caller no longer waits.",
        ),
        (
            method.is_streaming,
            "stream",
            "Replies with a stream of items to a caller that grants credit, and with an array to any other.",
        ),
        (
            method.incoming.is_some(),
            "incoming",
            "Receives a stream of items, which its caller sends while it runs. Others cannot call it.",
        ),
        (
            method.resumed_by.is_some(),
            "resume",
            "After an interruption, a caller may call it again for the items after the last one.",
        ),
    ];
    let set = known.into_iter().filter(|(is_set, _, _)| *is_set);
    let mut tags: Vec<_> = set
        .map(|(_, name, description)| json!({"name": name, "description": description}))
        .collect();
    if let Some(retry) = &method.retry {
        tags.push(json!({"name": "retry", "description": in_words(retry)}));
    }
    tags
}

fn in_words(retry: &RetryDescription) -> String {
    let (min, max) = (retry.min_delay_ms, retry.max_delay_ms);
    match retry.times {
        0 => "A failed job is not retried.".to_owned(),
        1 => format!("A failed job is retried once, after {min} ms."),
        times => {
            format!("A failed job is retried {times} times, after {min} ms at first and {max} ms at last.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_in_words() {
        for (times, description) in [
            (0, "A failed job is not retried."),
            (1, "A failed job is retried once, after 100 ms."),
            (
                2,
                "A failed job is retried 2 times, after 100 ms at first and 900 ms at last.",
            ),
        ] {
            let mut method = MethodDescription::new("send");
            method.retry = Some(RetryDescription::new(times, 100, 900));
            assert_eq!(
                tags(&method),
                [json!({"name": "retry", "description": description})]
            );
        }
    }
}
