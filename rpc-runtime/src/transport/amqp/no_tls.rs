//! In place of `tls`, where that is not built in: there is no client, and so nothing is asked of one.

use std::io;

use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use tokio::net::TcpStream;

use crate::error::TlsFailure;

#[derive(Debug, Clone)]
pub(crate) enum TlsClient {}

pub(super) async fn connect(
    client: &TlsClient,
    _: AMQPUri,
    _: TcpStream,
    _: ConnectionProperties,
) -> lapin::Result<Connection> {
    match *client {}
}

pub(super) fn failure_of(_: &io::Error) -> Option<TlsFailure> {
    None
}

pub(super) async fn refused_later(client: &TlsClient, _: (&str, u16)) -> Option<TlsFailure> {
    match *client {}
}
