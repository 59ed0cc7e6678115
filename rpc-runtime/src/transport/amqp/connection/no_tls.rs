//! Stands in for `tls` if the feature is not enabled. There is never a client.

use std::io;

use tokio::net::TcpStream;

use crate::error::TlsFailure;

#[derive(Debug, Clone)]
pub(crate) enum TlsClient {}

impl TlsClient {
    #[allow(clippy::unused_async)]
    pub(super) async fn handshake(&self, _: &str, _: TcpStream) -> io::Result<TcpStream> {
        match *self {}
    }

    #[allow(clippy::unused_async)]
    pub(super) async fn find_refusal(&self, _: (&str, u16)) -> Option<TlsFailure> {
        match *self {}
    }
}

pub(super) fn failure_of(_: &io::Error) -> Option<TlsFailure> {
    None
}
