//! Ports for nodes.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::Context as _;
use uuid::Uuid;

/// Returns ports on 127.0.0.1 that nobody listens on.
///
/// They are below the range of the ports for outgoing connections (from 32768 on). In that range, a
/// client could get the port before the node does, or even connect to itself.
pub(super) fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    const RANGE: std::ops::Range<u16> = 20_000..32_000;
    // Processes begin at random offsets. Within one process, no port is returned again soon.
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let random = Uuid::new_v4().as_u128() % u128::from(RANGE.end - RANGE.start);
        AtomicU16::new(random.try_into().expect("less than the length of the range"))
    });

    let mut ports = [0; N];
    for port in &mut ports {
        *port = (0..1000)
            .map(|_| RANGE.start + NEXT.fetch_add(1, Ordering::Relaxed) % (RANGE.end - RANGE.start))
            .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
            .context("no free port on 127.0.0.1")?;
    }
    Ok(ports)
}
