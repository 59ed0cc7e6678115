//! The console: what its server accepts and refuses, and its page in a browser, against live
//! workers.

mod browser;
mod console;
mod http;
mod services;
