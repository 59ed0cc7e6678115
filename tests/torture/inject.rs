//! Carries out the planned faults.

use std::time::Duration;

use rpc_tests::proxy::{Proxy, Target};
use tokio::time::{Instant, sleep};

use crate::history::{Micros, now};
use crate::plan::{Fault, Member, Network, Planned};
use crate::scene::Scene;
use crate::service::{BATCHED, QUEUE};

/// A fault that happened.
#[derive(Debug)]
pub(crate) struct Incident {
    pub(crate) name: &'static str,
    /// `None` if it affects all processes.
    pub(crate) victim: Option<Member>,
    pub(crate) from: Micros,
    /// When it was healed. A killed worker or caller is replaced then. A stopped worker has ended.
    pub(crate) to: Micros,
    pub(crate) fault: Fault,
}

impl Incident {
    pub(crate) fn deletes_the_queue(&self) -> bool {
        matches!(self.fault, Fault::DeleteQueue)
    }

    /// Returns whether it was active at some time between these two.
    pub(crate) fn overlaps(&self, from: Micros, to: Micros) -> bool {
        self.from <= to && from <= self.to
    }
}

/// Injects a fault and heals it. Returns `None` if it did not happen: a fault of the broker whose
/// turn came after `end`, or a cut before which too few bytes passed.
pub(crate) async fn inject(
    scene: &Scene,
    planned: Planned,
    end: Instant,
) -> anyhow::Result<Option<Incident>> {
    let Planned { fault, lasts, .. } = planned;
    let mut from = now();
    match fault {
        Fault::Network(network, member, aim) => {
            if !inject_network(scene.proxy(member), network, aim, lasts).await {
                return Ok(None);
            }
        }
        Fault::KillWorker(index) => scene.kill(Member::Worker(index)).await?,
        Fault::KillCaller(index) => scene.kill(Member::Caller(index)).await?,
        Fault::StopWorker(index) => scene.stop_worker(index).await?,
        Fault::KillBroker | Fault::CloseConnections | Fault::MemoryAlarm | Fault::DeleteQueue => {
            let (node, _turn) = scene.broker().await;
            if Instant::now() >= end {
                return Ok(None);
            }
            from = now();
            match fault {
                Fault::KillBroker => {
                    node.kill().await?;
                    // Its restart adds several seconds.
                    sleep(lasts / 4).await;
                    node.restart().await?;
                }
                Fault::CloseConnections => {
                    node.ctl(&["close_all_connections", "torture"]).await?;
                }
                Fault::MemoryAlarm => {
                    node.ctl(&["set_vm_memory_high_watermark", "0.000001"]).await?;
                    sleep(lasts).await;
                    node.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"])
                        .await?;
                }
                _ => {
                    // `DeleteQueue`. A queue may not exist: a broker that is killed soon after its
                    // declaration loses it.
                    let _ = node.ctl(&["delete_queue", QUEUE]).await;
                    let _ = node.ctl(&["delete_queue", BATCHED]).await;
                    scene.wait_for_queue().await?;
                }
            }
        }
    }
    Ok(Some(Incident {
        name: fault.name(),
        victim: fault.victim(),
        from,
        to: now(),
        fault,
    }))
}

/// Injects a fault of the network and heals it. Returns `false` if it is a cut that did not happen.
/// Other faults count even if no connection was open.
async fn inject_network(proxy: &Proxy, network: Network, aim: Target, lasts: Duration) -> bool {
    match network {
        Network::Latency(direction, by) => hold(proxy.delay(aim, direction, by), lasts).await,
        Network::Throttle(direction, rate) => hold(proxy.throttle(aim, direction, rate), lasts).await,
        Network::BlackHole(direction) => hold(proxy.black_hole(aim, direction), lasts).await,
        Network::Reset => drop(proxy.reset(aim).await),
        Network::HalfClose(direction) => drop(proxy.half_close(aim, direction).await),
        Network::CutAfter(direction, bytes) => {
            let cut = proxy.cut_after_bytes(aim, direction, bytes);
            // An error means that too few bytes passed in this time.
            return cut.happened(lasts).await.is_ok();
        }
        Network::Refuse => {
            let refused = proxy.refuse_new().await;
            proxy.reset(aim).await;
            hold(refused, lasts).await;
        }
        Network::Silence => {
            let silent = proxy.silence_new();
            proxy.reset(aim).await;
            hold(silent, lasts).await;
        }
    }
    true
}

async fn hold(fault: rpc_tests::proxy::Fault, lasts: Duration) {
    sleep(lasts).await;
    fault.heal().await;
}
