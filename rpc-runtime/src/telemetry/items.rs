//! The items of a call's streams, as layers, spans and metrics see them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;

use super::method::Method;
use super::metrics::{Event, count};
use super::span::{Side, nonzero_millis, to_attribute};
use super::stream_item::{SentBy, StreamItem};

/// Items are added to the metrics once so many have passed, because adding each by itself costs too
/// much.
const MAX_UNCOUNTED: u64 = 1024;

/// The layers that observe the items of a call.
#[derive(Clone, Default)]
pub(crate) struct ItemObservers(Vec<Observer>);

type Observer = Arc<dyn Fn(StreamItem) + Send + Sync>;

impl ItemObservers {
    pub(crate) fn push(&mut self, observer: impl Fn(StreamItem) + Send + Sync + 'static) {
        self.0.push(Arc::new(observer));
    }
}

impl fmt::Debug for ItemObservers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} observers", self.0.len())
    }
}

/// The streams of one call on one of its sides.
#[derive(Debug)]
pub(crate) struct ItemFlow {
    side: Side,
    method: Method,
    begun: Instant,
    by_caller: AtomicU64,
    by_method: AtomicU64,
    /// How long after `begun` the method's first item passed.
    first_item: OnceLock<Duration>,
}

impl ItemFlow {
    /// The streams of a call that a caller makes.
    pub(crate) fn of_call(method: Method) -> Arc<Self> {
        Self::new(Side::Caller, method)
    }

    /// The streams of a request that a worker runs.
    pub(crate) fn of_request(method: Method) -> Arc<Self> {
        Self::new(Side::Worker, method)
    }

    fn new(side: Side, method: Method) -> Arc<Self> {
        Arc::new(Self {
            side,
            method,
            begun: Instant::now(),
            by_caller: AtomicU64::new(0),
            by_method: AtomicU64::new(0),
            first_item: OnceLock::new(),
        })
    }

    /// How many items of this sender have passed so far.
    fn passed_from(&self, sent_by: SentBy) -> &AtomicU64 {
        match sent_by {
            SentBy::Caller => &self.by_caller,
            SentBy::Method => &self.by_method,
        }
    }

    /// Records in the span of the call or request how many items each side sent, and when the
    /// method's first item passed. Leaves out zeros, because a method need not have both streams.
    pub(super) fn record(&self, span: &Span) {
        for (sent_by, name) in [
            (SentBy::Caller, "rpc.request.items"),
            (SentBy::Method, "rpc.response.items"),
        ] {
            let items = self.passed_from(sent_by).load(Ordering::Relaxed);
            if items > 0 {
                span.record(name, to_attribute(items));
            }
        }
        if let Some(time) = self.first_item.get() {
            span.record("rpc.first_item_ms", nonzero_millis(*time));
        }
    }
}

/// How many items of a call's streams have passed so far. Clones share the numbers.
///
/// See [`OutgoingCall::item_counts`](crate::middleware::OutgoingCall::item_counts).
#[derive(Clone)]
pub struct ItemCounts(Option<Arc<ItemFlow>>);

impl ItemCounts {
    pub(crate) fn new(flow: Option<Arc<ItemFlow>>) -> Self {
        Self(flow)
    }

    /// Returns how many items `side` has sent. If that is the other side of the call, returns how
    /// many of them have reached their reader here. 0 if it sends none.
    #[must_use]
    pub fn sent_by(&self, side: SentBy) -> u64 {
        let flow = self.0.as_ref();
        flow.map_or(0, |flow| flow.passed_from(side).load(Ordering::Relaxed))
    }
}

impl fmt::Debug for ItemCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemCounts")
            .field("sent_by_caller", &self.sent_by(SentBy::Caller))
            .field("sent_by_method", &self.sent_by(SentBy::Method))
            .finish()
    }
}

/// Passes the items of one stream to those who observe and count them.
#[derive(Debug)]
pub(crate) struct ItemTally {
    sent_by: SentBy,
    /// `None` if the call has not begun or has no stream. Then nothing is counted.
    flow: Option<Arc<ItemFlow>>,
    observers: ItemObservers,
    /// The number of the next item.
    next_number: u64,
    /// How many items the metrics do not count yet.
    uncounted_items: u64,
    /// The bytes of these items.
    uncounted_bytes: u64,
}

impl ItemTally {
    pub(crate) fn new(sent_by: SentBy, flow: Option<Arc<ItemFlow>>, observers: ItemObservers) -> Self {
        Self {
            sent_by,
            flow,
            observers,
            next_number: 0,
            uncounted_items: 0,
            uncounted_bytes: 0,
        }
    }

    /// Sets the call to which the stream belongs.
    pub(crate) fn set_flow(&mut self, flow: Arc<ItemFlow>) {
        self.flow = Some(flow);
    }

    /// Sets who observes the items from now on.
    pub(crate) fn set_observers(&mut self, observers: ItemObservers) {
        self.observers = observers;
    }

    /// Creates the tally of the stream in the other direction, which `sent_by` sends.
    pub(crate) fn of_other_stream(&self, sent_by: SentBy) -> Self {
        Self::new(sent_by, self.flow.clone(), self.observers.clone())
    }

    /// The number of the next item.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Adds the next item, which has this size.
    pub(crate) fn add(&mut self, bytes: usize) {
        let item = StreamItem {
            sent_by: self.sent_by,
            number: self.next_number,
            bytes,
        };
        self.record_passed(1, bytes as u64);
        if self.uncounted_items >= MAX_UNCOUNTED {
            self.flush();
        }
        self.observers.0.iter().for_each(|observer| observer(item));
    }

    /// Adds the next items, which have these sizes, and flushes. Without observers, adds them all
    /// at once.
    pub(crate) fn add_all(&mut self, sizes: impl Iterator<Item = usize>) {
        if self.observers.0.is_empty() {
            let add_item = |(items, bytes): (u64, u64), size| (items + 1, bytes.saturating_add(size as u64));
            let (items, bytes) = sizes.fold((0, 0), add_item);
            self.record_passed(items, bytes);
        } else {
            sizes.for_each(|bytes| self.add(bytes));
        }
        self.flush();
    }

    /// Records that so many further items have passed, with so many bytes together. Does not tell
    /// the observers.
    fn record_passed(&mut self, items: u64, bytes: u64) {
        let has_first = self.next_number == 0 && items > 0;
        self.next_number += items;
        if let Some(flow) = &self.flow {
            // No other tally counts this stream. If a layer runs the method again, the number
            // begins anew.
            let passed = flow.passed_from(self.sent_by);
            passed.store(self.next_number, Ordering::Relaxed);
            if has_first && self.sent_by == SentBy::Method {
                let _ = flow.first_item.set(flow.begun.elapsed());
            }
        }
        self.uncounted_items += items;
        self.uncounted_bytes = self.uncounted_bytes.saturating_add(bytes);
    }

    /// Lets the metrics count the items that they have not counted yet. Forgets them if there is no
    /// flow.
    pub(crate) fn flush(&mut self) {
        let items = std::mem::take(&mut self.uncounted_items);
        let bytes = std::mem::take(&mut self.uncounted_bytes);
        if items > 0
            && let Some(flow) = &self.flow
        {
            count(Event::ItemsPassed {
                side: flow.side,
                method: &flow.method,
                sent_by: self.sent_by,
                items,
                bytes,
            });
        }
    }
}

impl Drop for ItemTally {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::name::Name;
    use super::*;

    fn flow() -> Arc<ItemFlow> {
        ItemFlow::of_call(Method::new(Name::Static("Store"), Name::Static("read")))
    }

    #[test]
    fn each_observer_gets_each_item_in_order() {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let mut observers = ItemObservers::default();
        for name in ["outer", "inner"] {
            let seen = Arc::clone(&seen);
            observers.push(move |item| seen.lock().unwrap().push((name, item.number(), item.bytes())));
        }
        let flow = flow();
        let counts = ItemCounts::new(Some(Arc::clone(&flow)));
        let mut tally = ItemTally::new(SentBy::Method, Some(flow), observers);
        tally.add(7);
        assert_eq!(
            counts.sent_by(SentBy::Method),
            1,
            "before it is counted in metrics"
        );
        tally.add(0);
        assert_eq!(
            *seen.lock().unwrap(),
            [("outer", 0, 7), ("inner", 0, 7), ("outer", 1, 0), ("inner", 1, 0)]
        );
        assert_eq!(
            (counts.sent_by(SentBy::Caller), counts.sent_by(SentBy::Method)),
            (0, 2)
        );
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn metrics_count_items_together() {
        let increments = Increments::default();
        metrics::with_local_recorder(&increments, || {
            let mut tally = ItemTally::new(SentBy::Caller, Some(flow()), ItemObservers::default());
            (0..3).for_each(|_| tally.add(5));
            tally.flush();
            tally.flush();
            // A stream that is always ready.
            (0..=MAX_UNCOUNTED).for_each(|_| tally.add(1));
        });
        let of = |name, items| (format!("rpc_client_{name}_total caller"), items);
        let (many, bytes) = (MAX_UNCOUNTED, 15);
        assert_eq!(
            *increments.0.lock().unwrap(),
            [
                of("items", 3),
                of("item_bytes", bytes),
                of("items", many),
                of("item_bytes", many),
                of("items", 1),
                of("item_bytes", 1),
            ]
        );
    }

    /// Records each increment of a counter, with the value of its last label.
    #[cfg(feature = "metrics")]
    #[derive(Debug, Default, Clone)]
    struct Increments(Arc<Mutex<Vec<(String, u64)>>>, String);

    #[cfg(feature = "metrics")]
    impl metrics::CounterFn for Increments {
        fn increment(&self, value: u64) {
            self.0.lock().unwrap().push((self.1.clone(), value));
        }

        fn absolute(&self, _: u64) {}
    }

    #[cfg(feature = "metrics")]
    impl metrics::Recorder for Increments {
        fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

        fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

        fn describe_histogram(
            &self,
            _: metrics::KeyName,
            _: Option<metrics::Unit>,
            _: metrics::SharedString,
        ) {
        }

        fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
            let label = key.labels().last().map_or("", metrics::Label::value);
            let name = format!("{} {label}", key.name());
            metrics::Counter::from_arc(Arc::new(Self(Arc::clone(&self.0), name)))
        }

        fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
            metrics::Gauge::noop()
        }

        fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
            metrics::Histogram::noop()
        }
    }
}
