//! The service on the pages.

// The pages show a library.
#![allow(unreachable_pub)]

use std::future::pending;

use rpc_runtime::service;
use rpc_tests::runs::Runs;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum DirectoryError {
    #[error("no user {id}")]
    UnknownUser { id: String },
}

#[service(queue = "user-directory")]
pub trait UserDirectory {
    /// Returns the e-mail address of a user.
    #[rpc(default, idempotent)]
    async fn get_email(&self, id: &str) -> Result<String, DirectoryError>;

    /// Writes the report of a year, which takes long.
    #[rpc(idempotent)]
    async fn report(&self, year: u16) -> String;
}

/// Has one user. A report is never ready.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directory {
    /// Its reports.
    pub(crate) reports: Runs,
}

impl UserDirectory for Directory {
    async fn get_email(&self, id: &str) -> Result<String, DirectoryError> {
        match id {
            "user:12345" => Ok("alice@example.com".to_owned()),
            _ => Err(DirectoryError::UnknownUser { id: id.to_owned() }),
        }
    }

    async fn report(&self, year: u16) -> String {
        let _run = self.reports.begin(&year.to_string());
        pending().await
    }
}

/// What an older caller sends: a method that is gone, and another one without its argument.
#[service(queue = "user-directory")]
pub(crate) trait Older {
    async fn erase(&self, id: &str) -> u64;
    async fn get_email(&self) -> String;
}

/// What a newer caller sends: a method with another argument.
#[service(queue = "user-directory")]
pub(crate) trait Newer {
    async fn get_email(&self, id: &str, language: &str) -> Result<String, DirectoryError>;
}
