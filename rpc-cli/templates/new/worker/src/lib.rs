//! The implementation of the service. It knows nothing of RabbitMQ.

use {{crate}}_api::{GreetError, Greeter};

/// How many characters a name may have.
const MAX_NAME: usize = 100;

/// Greets people in English.
#[derive(Debug, Clone, Copy)]
pub struct English;

impl Greeter for English {
    async fn greet(&self, name: &str) -> Result<String, GreetError> {
        let name = name.trim();
        if name.is_empty() {
            return Err(GreetError::NoName);
        }
        if name.chars().count() > MAX_NAME {
            return Err(GreetError::TooLong { limit: MAX_NAME });
        }
        Ok(format!("Hello, {name}!"))
    }
}
