//! SQLite for asynchronous programs, and crashes on purpose.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::task::spawn_blocking;

/// A SQLite database. Statements run on threads that may block, one closure at a time.
#[derive(Debug, Clone)]
pub struct Database(Arc<Mutex<Connection>>);

impl Database {
    /// Opens the file that the variable `DATABASE` names, or a database in memory if it is not set.
    /// Then runs `tables`, the SQL that creates the tables.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be opened, or the SQL fails.
    pub fn open(tables: &str) -> rusqlite::Result<Self> {
        let connection = match std::env::var_os("DATABASE") {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        connection.execute_batch(tables)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Runs a closure with the connection. It runs to its end even if this future is dropped.
    ///
    /// # Errors
    ///
    /// Fails with the error that the closure returns.
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
            // A closure that panicked has dropped its transaction, which rolled it back.
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            statements(&mut connection)
        });
        running.await.expect("the statements do not panic")
    }

    /// Returns the number that a query selects.
    ///
    /// # Errors
    ///
    /// Fails if the query fails, selects no row, or does not select an integer.
    pub async fn number(&self, query: &'static str) -> rusqlite::Result<i64> {
        self.run(|connection| connection.query_row(query, [], |row| row.get(0)))
            .await
    }
}

/// Aborts the process if `CRASH_AT` names this step. For the tests of the examples.
pub fn crash_point(step: &str) {
    if std::env::var("CRASH_AT").is_ok_and(|crash_at| crash_at == step) {
        std::process::abort();
    }
}
