//! Prometheus metrics. Labels come from closed sets (operation names, error codes, classes, states): never a principal, a
//! key id, an alias or an address.

use std::fmt;
use std::sync::Arc;
use std::sync::RwLock;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    operation: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

/// Read from the other parts at each scrape. Names within the lists are from closed sets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// Jobs that wait for a session worker.
    pub token_queue: u64,
    /// Session workers, each with a session.
    pub token_sessions: u64,
    /// Sessions that were lost and replaced.
    pub token_sessions_replaced: u64,
    /// By error class.
    pub token_errors: Vec<(&'static str, u64)>,
    pub token_ready: bool,
    /// 0: calls go to the token; 1: the first try to bring it back runs; 2: calls fail at once.
    pub token_breaker: u64,
    /// The login is refused: only a person can help.
    pub token_login_refused: bool,
    /// How often the token went away.
    pub token_outages: u64,
    /// C_Finalize and C_Initialize.
    pub token_initializations: u64,
    /// Grows with every login and every C_Initialize.
    pub token_epoch: u64,
    /// Threads in a call that does not come back.
    pub token_lost_threads: u64,
    /// Seconds since a call succeeded; absent where none has.
    pub token_idle_seconds: Option<u64>,
    /// The last error of the whole token: C function and CKR name.
    pub token_last_error: Option<(String, String)>,
    pub audit_failures: u64,
    /// Below the line to a warning.
    pub audit_low_space: bool,
    /// Checkpoints that could not be made.
    pub audit_checkpoint_failures: u64,
    /// Of the whole log, on stable storage.
    pub audit_records: u64,
    /// Covered by a checkpoint.
    pub audit_signed_records: u64,
    /// Of the journal's file system; absent where it cannot be told.
    pub audit_free_bytes: Option<u64>,
    /// When records were last sealed, and the newest digest's end: seconds since the epoch, 0 for never.
    pub audit_last_seal: u64,
    pub audit_last_digest: u64,
    /// Sealing, signing a digest or deleting old files that failed; tried again.
    pub audit_seal_failures: u64,
    /// Segments of the journal that are old enough to go, and stay because a sink is behind.
    pub audit_segments_held: u64,
    /// By key state.
    pub keys: Vec<(&'static str, u64)>,
    /// Custom key stores by connection state.
    pub key_stores: Vec<(&'static str, u64)>,
    /// Symmetric keys by the share of their encryption limit that is used: `under_quarter`, `quarter`, `half`, `reached`.
    pub gcm_usage: Vec<(&'static str, u64)>,
    /// Audit changes whose outcome is not settled yet.
    pub unsettled: u64,
    /// Open streams of the log.
    pub streams: u64,
    pub sinks: Vec<SinkReading>,
    /// Of key stores of several tokens.
    pub members: Vec<MemberReading>,
    /// Keys that some member is not known to hold, by key store.
    pub unreplicated: Vec<(String, u64)>,
    /// Calls that another member answered after one had failed.
    pub failovers: u64,
}

/// One of several tokens of a key store. Names are from the configuration, key stores by their ids: closed sets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemberReading {
    pub key_store: String,
    pub member: String,
    pub ready: bool,
    /// Only a person can help.
    pub login_refused: bool,
    /// That it is known to hold.
    pub keys: u64,
    /// Under whose id it holds another key.
    pub wrong_keys: u64,
}

/// One sink of the log. Names are from the configuration: a closed set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SinkReading {
    pub name: String,
    /// Records of the trail up to which all are acknowledged.
    pub acknowledged: u64,
    /// Records that are not.
    pub lag: u64,
    pub failures: u64,
    pub failing: bool,
}

type Source = Box<dyn Fn() -> Readings + Send + Sync>;

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    seconds: Family<OperationLabel, Histogram, fn() -> Histogram>,
    refused: Family<Code, Counter>,
    strangers: Family<Code, Counter>,
    alerts: Family<Code, Counter>,
    connections: Gauge,
    connections_accepted: Counter,
    tls_handshake_failures: Counter,
    source: Arc<RwLock<Option<Source>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("hsm_bridge");
        // 50 µs to 26 s.
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(50e-6, 2.0, 20));
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            refused: Family::default(),
            strangers: Family::default(),
            alerts: Family::default(),
            connections: Gauge::default(),
            connections_accepted: Counter::default(),
            tls_handshake_failures: Counter::default(),
            source: Arc::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Requests answered, by operation and outcome", metrics.requests.clone());
        registry.register("request_seconds", "From the head's arrival to the answer", metrics.seconds.clone());
        registry.register("http_refused", "Requests refused by the transport, by code", metrics.refused.clone());
        registry.register("strangers", "Requests whose signature did not verify, by code", metrics.strangers.clone());
        registry.register(
            "audit_alerts",
            "What an auditor should look at, by the record's name",
            metrics.alerts.clone(),
        );
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register("connections_accepted", "Connections accepted", metrics.connections_accepted.clone());
        registry.register(
            "tls_handshake_failures",
            "TLS handshakes that failed or took too long",
            metrics.tls_handshake_failures.clone(),
        );
        registry.register_collector(Box::new(Scrape(metrics.source.clone())));
        Self { registry, ..metrics }
    }

    /// `operation` and `code` are constants of this program: an operation's name or `Unknown`, an exception's name or `Success`.
    pub fn observe(&self, operation: &'static str, code: &'static str, seconds: f64) {
        self.requests.get_or_create(&Outcome { operation, code }).inc();
        self.seconds.get_or_create(&OperationLabel { operation }).observe(seconds);
    }

    /// A request whose signature did not verify.
    pub fn stranger(&self, code: &'static str) {
        self.strangers.get_or_create(&Code { code }).inc();
    }

    /// Something that a person should look at; its record has the same name.
    pub fn alert(&self, name: &'static str) {
        self.alerts.get_or_create(&Code { code: name }).inc();
    }

    /// Where the values come from that other parts keep. Called once, when those parts exist.
    pub fn read_from(&self, source: impl Fn() -> Readings + Send + Sync + 'static) {
        *self.source.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Box::new(source));
    }

    /// OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            tracing::error!("cannot encode metrics: {error}");
        }
        text
    }

    pub(super) fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&Code { code }).inc();
    }

    pub(super) fn tls_handshake_failed(&self) {
        self.tls_handshake_failures.inc();
    }

    /// Open until the returned value is dropped.
    pub(super) fn connection_opened(&self) -> OpenConnection {
        self.connections_accepted.inc();
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }
}

pub(super) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

struct Scrape(Arc<RwLock<Option<Source>>>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let readings = match &*self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(source) => source(),
            None => return Ok(()),
        };
        let mut gauge = |name: &str, help: &str, value: u64| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(signed(value)).encode(metric)
        };
        gauge("token_queue", "Jobs that wait for a session worker", readings.token_queue)?;
        gauge("token_sessions", "Session workers", readings.token_sessions)?;
        gauge("token_ready", "1 where the token can be used", u64::from(readings.token_ready))?;
        let help = "0: calls go to the token, 1: the first try to bring it back runs, 2: calls fail at once";
        gauge("token_breaker", help, readings.token_breaker)?;
        let refused = u64::from(readings.token_login_refused);
        gauge("token_login_refused", "1 while the token refuses the login: an operator has to act", refused)?;
        gauge("token_epoch", "Logins and initialisations: handles of an older one are void", readings.token_epoch)?;
        gauge("token_lost_threads", "Threads in a call that does not come back", readings.token_lost_threads)?;
        if let Some(idle) = readings.token_idle_seconds {
            gauge("token_idle_seconds", "Since a call to the token succeeded", idle)?;
        }
        gauge("unsettled_changes", "Changes whose outcome is not settled yet", readings.unsettled)?;
        let low = u64::from(readings.audit_low_space);
        gauge("audit_low_space", "1 while free space of the audit log is below the line to a warning", low)?;
        gauge("audit_records", "Records of the audit log", readings.audit_records)?;
        gauge("audit_signed_records", "Records that a signed checkpoint covers", readings.audit_signed_records)?;
        gauge("audit_streams", "Open streams of the audit log", readings.streams)?;
        if let Some(free) = readings.audit_free_bytes {
            gauge("audit_free_bytes", "Free space of the journal's file system", free)?;
        }
        gauge("audit_last_seal_seconds", "When records were last sealed, Unix time", readings.audit_last_seal)?;
        gauge("audit_last_digest_seconds", "End of the newest digest, Unix time", readings.audit_last_digest)?;
        let held = readings.audit_segments_held;
        gauge("audit_segments_held", "Old segments of the journal that wait for a sink that is behind", held)?;
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)
        };
        counter("token_sessions_replaced", "Sessions lost and replaced", readings.token_sessions_replaced)?;
        counter("token_outages", "How often the token went away", readings.token_outages)?;
        counter("token_initializations", "C_Finalize and C_Initialize", readings.token_initializations)?;
        let failures = readings.audit_checkpoint_failures;
        counter("audit_checkpoint_failures", "Checkpoints that could not be made", failures)?;
        counter("audit_failures", "Records that could not be written", readings.audit_failures)?;

        counter("audit_seal_failures", "Sealing, digests and pruning that failed", readings.audit_seal_failures)?;

        if !readings.members.is_empty() {
            counter("token_failovers", "Calls that another member answered after one had failed", readings.failovers)?;
        }
        let mut by_member = |name: &str, help: &str, value: fn(&MemberReading) -> u64| {
            if readings.members.is_empty() {
                return Ok(());
            }
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for member in &readings.members {
                let labels = [("key_store", member.key_store.as_str()), ("member", member.member.as_str())];
                ConstGauge::new(signed(value(member))).encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        };
        by_member("token_member_ready", "1 where the token is used with its key store", |m| u64::from(m.ready))?;
        by_member("token_member_login_refused", "1 while the token refuses the login: an operator has to act", |m| {
            u64::from(m.login_refused)
        })?;
        by_member("token_member_keys", "Keys that the token is known to hold", |m| m.keys)?;
        by_member("token_member_wrong_keys", "Keys under whose id the token holds another one", |m| m.wrong_keys)?;
        if !readings.unreplicated.is_empty() {
            let help = "Keys that some token of the key store is not known to hold";
            let mut family = encoder.encode_descriptor("keys_unreplicated", help, None, MetricType::Gauge)?;
            for (store, count) in &readings.unreplicated {
                let labels = [("key_store", store.as_str())];
                ConstGauge::new(signed(*count)).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family = encoder.encode_descriptor("token_errors", "Token errors", None, MetricType::Counter)?;
        for (class, count) in readings.token_errors {
            ConstCounter::new(count).encode(family.encode_family(&[("class", class)])?)?;
        }
        if let Some((function, rv)) = &readings.token_last_error {
            let help = "1: the last error that said that the token is down";
            let mut family = encoder.encode_descriptor("token_last_error", help, None, MetricType::Gauge)?;
            let labels = [("function", function.as_str()), ("rv", rv.as_str())];
            ConstGauge::new(1).encode(family.encode_family(&labels)?)?;
        }
        let mut family = encoder.encode_descriptor("keys", "Keys by state", None, MetricType::Gauge)?;
        for (state, count) in readings.keys {
            ConstGauge::new(signed(count)).encode(family.encode_family(&[("state", state)])?)?;
        }
        let help = "Custom key stores by connection state";
        let mut family = encoder.encode_descriptor("key_stores", help, None, MetricType::Gauge)?;
        for (state, count) in readings.key_stores {
            ConstGauge::new(signed(count)).encode(family.encode_family(&[("state", state)])?)?;
        }
        let help = "Symmetric keys by the used share of their encryption limit";
        let mut family = encoder.encode_descriptor("keys_by_encryption_usage", help, None, MetricType::Gauge)?;
        for (share, count) in readings.gcm_usage {
            ConstGauge::new(signed(count)).encode(family.encode_family(&[("share", share)])?)?;
        }
        sinks(&mut encoder, &readings.sinks)
    }
}

fn sinks(encoder: &mut DescriptorEncoder<'_>, sinks: &[SinkReading]) -> Result<(), fmt::Error> {
    type Read = fn(&SinkReading) -> u64;
    let gauges: [(&str, &str, Read); 3] = [
        ("audit_sink_acknowledged", "Records of the trail up to which the sink acknowledged all", |sink| {
            sink.acknowledged
        }),
        ("audit_sink_lag", "Records that the sink has not acknowledged", |sink| sink.lag),
        ("audit_sink_failing", "1 while the sink's last try failed", |sink| u64::from(sink.failing)),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for sink in sinks {
            ConstGauge::new(signed(read(sink))).encode(family.encode_family(&[("sink", sink.name.as_str())])?)?;
        }
    }
    let help = "Tries to send to the sink that failed";
    let mut family = encoder.encode_descriptor("audit_sink_failures", help, None, MetricType::Counter)?;
    for sink in sinks {
        ConstCounter::new(sink.failures).encode(family.encode_family(&[("sink", sink.name.as_str())])?)?;
    }
    Ok(())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A new label name has to be added here, and the reader of this list asks what values it may take.
    #[test]
    fn labels_are_from_the_known_list() {
        let metrics = Metrics::new();
        metrics.observe("Encrypt", "OK", 0.001);
        metrics.stranger("InvalidSignatureException");
        metrics.refused("RequestTimeoutException");
        metrics.tls_handshake_failed();
        let _open = metrics.connection_opened();
        metrics.read_from(|| Readings {
            token_errors: vec![("Session", 2)],
            token_last_error: Some(("C_Sign".to_owned(), "CKR_DEVICE_ERROR".to_owned())),
            token_idle_seconds: Some(3),
            token_breaker: 2,
            keys: vec![("Enabled", 10), ("Disabled", 1)],
            key_stores: vec![("CONNECTED", 2)],
            gcm_usage: vec![("half", 1)],
            audit_free_bytes: Some(1 << 40),
            audit_low_space: true,
            audit_checkpoint_failures: 3,
            audit_segments_held: 2,
            sinks: vec![SinkReading { name: "siem".to_owned(), acknowledged: 7, lag: 2, failures: 3, failing: true }],
            ..Readings::default()
        });
        let text = metrics.text();
        let mut labels = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((_, rest)) = line.split_once('{') else { continue };
            let (set, _) = rest.split_once('}').unwrap();
            labels.extend(set.split(',').map(|pair| pair.split_once('=').unwrap().0.to_owned()));
        }
        let known = ["class", "code", "function", "le", "operation", "rv", "share", "sink", "state"];
        assert_eq!(labels.into_iter().collect::<Vec<_>>(), known, "{text}");
        for line in [
            r#"hsm_bridge_requests_total{operation="Encrypt",code="OK"} 1"#,
            r#"hsm_bridge_request_seconds_count{operation="Encrypt"} 1"#,
            r#"hsm_bridge_token_errors_total{class="Session"} 2"#,
            r#"hsm_bridge_token_last_error{function="C_Sign",rv="CKR_DEVICE_ERROR"} 1"#,
            "hsm_bridge_token_idle_seconds 3",
            "hsm_bridge_token_breaker 2",
            r#"hsm_bridge_keys{state="Enabled"} 10"#,
            r#"hsm_bridge_key_stores{state="CONNECTED"} 2"#,
            r#"hsm_bridge_audit_sink_acknowledged{sink="siem"} 7"#,
            r#"hsm_bridge_audit_sink_lag{sink="siem"} 2"#,
            r#"hsm_bridge_audit_sink_failing{sink="siem"} 1"#,
            r#"hsm_bridge_audit_sink_failures_total{sink="siem"} 3"#,
            "hsm_bridge_connections 1",
            "hsm_bridge_audit_free_bytes 1099511627776",
            "hsm_bridge_audit_low_space 1",
            "hsm_bridge_audit_segments_held 2",
            "hsm_bridge_audit_checkpoint_failures_total 3",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
