//! SQLite for asynchronous programs, and crashes on purpose.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::task::spawn_blocking;

/// A SQLite database. Its work runs on threads that may block.
#[derive(Debug, Clone)]
pub struct Database(Arc<Mutex<Connection>>);

impl Database {
    /// Opens the database at `DATABASE` and creates these tables. Opens one in memory if the
    /// variable is not set.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be opened.
    pub fn open(tables: &str) -> rusqlite::Result<Self> {
        let connection = match std::env::var_os("DATABASE") {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        connection.execute_batch(tables)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Runs statements.
    ///
    /// # Errors
    ///
    /// Fails with the error of the first statement that fails.
    ///
    /// # Panics
    ///
    /// Panics if `statements` does.
    pub async fn run<T: Send + 'static>(
        &self,
        statements: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let connection = Arc::clone(&self.0);
        let running = spawn_blocking(move || {
            // SQLite has rolled back the transaction of a thread that panicked.
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            statements(&mut connection)
        });
        running.await.expect("the statements do not panic")
    }

    /// Returns the number that a query selects.
    ///
    /// # Errors
    ///
    /// Fails if the query fails or selects nothing.
    pub async fn number(&self, query: &'static str) -> rusqlite::Result<i64> {
        self.run(|connection| connection.query_row(query, [], |row| row.get(0)))
            .await
    }
}

/// Ends the process at once if `CRASH_AT` names this step. For the tests of the examples.
pub fn crash_point(step: &str) {
    if std::env::var("CRASH_AT").is_ok_and(|crash_at| crash_at == step) {
        std::process::abort();
    }
}
