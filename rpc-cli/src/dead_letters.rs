//! Dead letters: finds them in their queue, reads them, sends them again and removes them. What
//! commands print about them is left to the commands.

pub(crate) mod find;
pub(crate) mod headers;
pub(crate) mod letter;
pub(crate) mod retry;
pub(crate) mod scan;
pub(crate) mod wanted;

use rpc_runtime::discovery::dead_queue;

/// Checks the name of a request queue. It must not be empty, and the name of its dead-letter queue
/// must have at most AMQP's 255 bytes.
pub(crate) fn parse_queue(name: &str) -> Result<String, String> {
    match name {
        "" => Err("the name is empty".to_owned()),
        _ if dead_queue(name).len() > 255 => Err("the name is longer than a queue's can be".to_owned()),
        _ => Ok(name.to_owned()),
    }
}
