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
    /// When it was healed.
    pub(crate) to: Micros,
    pub(crate) fault: Fault,
}

impl Incident {
    pub(crate) fn deletes_the_queue(&self) -> bool {
        matches!(self.fault, Fault::DeleteQueue)
    }

    /// Returns whether it was active at some time between these two.
    pub(crate) fn is_within(&self, from: Micros, to: Micros) -> bool {
        self.from <= to && from <= self.to
    }
}

/// Injects a fault and heals it. Returns `None` if its time came after `end` or it did not take
/// effect.
pub(crate) async fn inject(
    scene: &Scene,
    planned: Planned,
    end: Instant,
) -> anyhow::Result<Option<Incident>> {
    let Planned { fault, lasts, .. } = planned;
    let mut from = now();
    match fault {
        Fault::Network(network, member, aim) => {
            if !trouble(scene.proxy(member), network, aim, lasts).await {
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
                    // It may not exist: a broker that is killed soon after its declaration loses
                    // it.
                    let _ = node.ctl(&["delete_queue", QUEUE]).await;
                    let _ = node.ctl(&["delete_queue", BATCHED]).await;
                    scene.queue_is_there().await?;
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

/// Whether it took effect.
async fn trouble(proxy: &Proxy, network: Network, aim: Target, lasts: Duration) -> bool {
    match network {
        Network::Latency(direction, by) => hold(proxy.delay(aim, direction, by), lasts).await,
        Network::Throttle(direction, rate) => hold(proxy.throttle(aim, direction, rate), lasts).await,
        Network::BlackHole(direction) => hold(proxy.black_hole(aim, direction), lasts).await,
        Network::Reset => drop(proxy.reset(aim).await),
        Network::HalfClose(direction) => drop(proxy.half_close(aim, direction).await),
        Network::CutAfter(direction, bytes) => {
            let cut = proxy.cut_after_bytes(aim, direction, bytes);
            // Too few bytes passed in this time, so there was no fault.
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
