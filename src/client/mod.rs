//! An ordinary client of the KMS API, for commands that are no operator's: it has an AWS principal's credentials, signs its
//! requests and is authorised and audited like every other. Knows nothing of store, token and operator socket.

mod connection;
mod environment;
pub mod https;
pub mod https_get;
pub mod timestamp;
pub mod trail;

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use serde_json::Value;

use connection::Connection;
pub use environment::{Endpoint, Environment};

/// Tries of one call: throttling and faults of the server are tried again, as AWS's SDKs do.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// What is missing in flags and environment, and how to give it.
    #[error("{0}")]
    Configuration(String),
    #[error("`{endpoint}`: {cause}")]
    Connection { endpoint: String, cause: String },
    /// The service refused: exception name and text.
    #[error("{code}{}", message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
    Refused { code: String, message: Option<String> },
}

impl ClientError {
    /// Whether the same call can have another outcome.
    fn passes(&self) -> bool {
        match self {
            ClientError::Configuration(_) => false,
            ClientError::Connection { .. } => true,
            ClientError::Refused { code, .. } => matches!(
                code.as_str(),
                "ThrottlingException"
                    | "KMSInternalException"
                    | "DependencyTimeoutException"
                    | "KeyUnavailableException"
                    | "InternalServiceErrorException"
                    | "ServiceUnavailableException"
                    | "InternalError"
                    | "SlowDown"
            ),
        }
    }

    pub fn is(&self, exception: &str) -> bool {
        matches!(self, ClientError::Refused { code, .. } if code == exception)
    }
}

/// One connection to the service; made anew when it is lost.
pub struct KmsClient {
    environment: Environment,
    connection: Option<Connection>,
}

impl KmsClient {
    pub fn new(environment: Environment) -> Self {
        Self { environment, connection: None }
    }

    /// `operation`: `Decrypt` for example. Tries again where that can help.
    pub async fn call(&mut self, operation: &str, input: &Value) -> Result<Value, ClientError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.once(operation, input).await {
                Err(error) if error.passes() => {}
                outcome => return outcome,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.once(operation, input).await
    }

    async fn once(&mut self, operation: &str, input: &Value) -> Result<Value, ClientError> {
        let endpoint = self.environment.endpoint.clone();
        let told = |cause: String| ClientError::Connection { endpoint: endpoint.url.clone(), cause };
        let body = input.to_string().into_bytes();
        let headers = self.signed(operation, &body)?;
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_open() => connection,
            _ => Connection::open(&endpoint, &self.environment.roots).await.map_err(told)?,
        };
        let (status, answer) = connection.post("/", &headers, body).await.map_err(told)?;
        self.connection = Some(connection);
        let answer: Value = if answer.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&answer).map_err(|e| told(format!("the answer is no JSON: {e}")))?
        };
        if status == 200 {
            return Ok(answer);
        }
        let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
        Err(ClientError::Refused {
            code: text("__type").unwrap_or_else(|| format!("HTTP {status}")),
            message: text("message").or_else(|| text("Message")),
        })
    }

    fn signed(&self, operation: &str, body: &[u8]) -> Result<Vec<(String, String)>, ClientError> {
        let from = &self.environment;
        let headers = vec![
            ("host".to_owned(), from.endpoint.authority.clone()),
            ("content-type".to_owned(), "application/x-amz-json-1.1".to_owned()),
            ("x-amz-target".to_owned(), format!("TrentService.{operation}")),
        ];
        let mut headers = signed(from, "kms", "POST", from.endpoint.url.as_str(), headers, body)?;
        headers.push(("user-agent".to_owned(), format!("hsm-bridge/{} reencrypt", env!("CARGO_PKG_VERSION"))));
        Ok(headers)
    }
}

/// `headers`, which have Host, and those that sign them.
fn signed(
    from: &Environment,
    service: &str,
    method: &str,
    url: &str,
    mut headers: Vec<(String, String)>,
    body: &[u8],
) -> Result<Vec<(String, String)>, ClientError> {
    let told = |what: &dyn std::fmt::Display| ClientError::Configuration(format!("signing failed: {what}"));
    let token = from.session_token.as_ref().map(|token| token.expose().to_owned());
    let identity =
        Credentials::new(&from.access_key_id, from.secret_access_key.expose(), token, None, "environment").into();
    let mut settings = SigningSettings::default();
    if service == "s3" {
        // RULE S3: the path is signed as it is sent, and the payload's hash is a header.
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    }
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&from.region)
        .name(service)
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .map_err(|e| told(&e))?
        .into();
    let request = SignableRequest::new(
        method,
        url,
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        SignableBody::Bytes(body),
    )
    .map_err(|e| told(&e))?;
    let (added, _) = sign(request, &params).map_err(|e| told(&e))?.into_parts().0.into_parts();
    headers.extend(added.into_iter().map(|header| (header.name().to_owned(), header.value().to_owned())));
    Ok(headers)
}
