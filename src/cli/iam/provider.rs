//! `iam oidc-provider …` and `iam service …`: those outside who vouch for others.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Asked, document, maybe_document};
use crate::cli::Failed;
use crate::ids::ServiceName;
use crate::ops::{IamEdit, IamKind, KeySource};

#[derive(Subcommand)]
pub enum OidcProviderCommand {
    Create {
        /// The issuer, exactly as `iss` of its tokens has it.
        #[arg(long)]
        url: String,
        /// An audience that its tokens may have; may be given again.
        #[arg(long = "client-id", value_name = "ID", required = true)]
        client_ids: Vec<String>,
        /// What a token may be signed with; may be given again.
        #[arg(long = "algorithm", value_name = "ALG", default_value = "RS256")]
        algorithms: Vec<String>,
        #[command(flatten)]
        keys: KeyOptions,
    },
    /// What is not given stays.
    Update {
        /// ARN or URL.
        provider: String,
        #[arg(long = "client-id", value_name = "ID")]
        client_ids: Vec<String>,
        #[arg(long = "algorithm", value_name = "ALG")]
        algorithms: Vec<String>,
        #[command(flatten)]
        keys: KeyOptions,
    },
    List,
    Show {
        /// ARN or URL.
        provider: String,
    },
    Delete {
        /// ARN or URL.
        provider: String,
    },
}

#[derive(Args)]
pub struct KeyOptions {
    /// The issuer's keys (a JSON Web Key Set), kept here.
    #[arg(long, value_name = "FILE", conflicts_with = "jwks_url")]
    jwks_file: Option<PathBuf>,
    /// Where the issuer's keys are fetched: https.
    #[arg(long, value_name = "URL")]
    jwks_url: Option<String>,
    /// PEM of the only authority that is trusted for --jwks-url; by default the system's.
    #[arg(long, value_name = "FILE", requires = "jwks_url")]
    ca: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum ServiceCommand {
    /// Registering again replaces what a service may do.
    Register {
        /// `backup.internal.example`
        name: ServiceName,
        /// It has AWS managed keys, `alias/aws/WORD`.
        #[arg(long, value_name = "WORD")]
        managed_key: Option<String>,
        /// A principal ARN (`*` is a wildcard) or an account id on whose behalf it may call; may be given again.
        #[arg(long, value_name = "PRINCIPAL")]
        may_act_for: Vec<String>,
    },
    List,
    Show {
        name: ServiceName,
    },
    /// With its access keys, which are refused from the next request on.
    Deregister {
        name: ServiceName,
    },
}

impl OidcProviderCommand {
    pub fn asked(self) -> Result<Asked, Failed> {
        Ok(Asked::Edit(match self {
            Self::List => return Ok(Asked::Show(IamKind::OidcProvider, None)),
            Self::Show { provider } => return Ok(Asked::Show(IamKind::OidcProvider, Some(provider))),
            Self::Create { url, client_ids, algorithms, keys } => {
                let keys = keys.source()?.ok_or_else(|| {
                    Failed::new(super::super::USAGE, "say where the issuer's keys are: --jwks-file or --jwks-url")
                })?;
                IamEdit::CreateOidcProvider { url, client_ids, algorithms, keys }
            }
            Self::Update { provider, client_ids, algorithms, keys } => IamEdit::UpdateOidcProvider {
                provider,
                client_ids: (!client_ids.is_empty()).then_some(client_ids),
                algorithms: (!algorithms.is_empty()).then_some(algorithms),
                keys: keys.source()?,
            },
            Self::Delete { provider } => IamEdit::DeleteOidcProvider { provider },
        }))
    }
}

impl KeyOptions {
    fn source(self) -> Result<Option<KeySource>, Failed> {
        Ok(match (self.jwks_file, self.jwks_url) {
            (Some(file), _) => Some(KeySource::Static { jwks: document(&file)? }),
            (None, Some(url)) => Some(KeySource::Fetched { url, ca: maybe_document(self.ca.as_deref())? }),
            (None, None) => None,
        })
    }
}

impl ServiceCommand {
    pub fn asked(self) -> Asked {
        Asked::Edit(match self {
            Self::List => return Asked::Show(IamKind::Service, None),
            Self::Show { name } => return Asked::Show(IamKind::Service, Some(name.to_string())),
            Self::Register { name, managed_key, may_act_for } => {
                IamEdit::RegisterService { name, managed_key, may_act_for }
            }
            Self::Deregister { name } => IamEdit::DeregisterService { name },
        })
    }
}
