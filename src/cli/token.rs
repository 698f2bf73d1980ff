//! `token …`: the officer's view of the tokens.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Failed, absolute};
use crate::ops::OperatorRequest;

#[derive(Subcommand)]
pub enum TokenCommand {
    /// The configured tokens: serial, cluster id, state, keys, and the key store that each one is.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Compare the objects of a token with the records of the store. Nothing is changed.
    #[command(
        after_help = "Reads every object of the token once. Exit codes: 0 token and store agree, 1 they do not.\n\
        What is found is never removed: that is done by hand, with pkcs11-tool, once it is understood."
    )]
    Reconcile {
        /// Its name in the configuration, `default` for [token]; by default all that are connected.
        #[arg(long, value_name = "NAME")]
        token: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Take a new PIN, without a restart. It is tried once; the old one stays until the new one has worked.
    #[command(
        after_help = "Change the PIN in the token first. The new one is read from the source that the configuration names, or from\n\
        --pin-file on the server's host. For a custom key store name --token and --pin-file: its password stands nowhere else.\n\
        A PIN that the token rejected once on this host is refused without a try, after a restart too: --retry forgets the\n\
        rejected PINs of the token first. A wrong PIN then costs another try of those that the token has until it locks."
    )]
    Pin {
        /// Its name in the configuration; `default` by default.
        #[arg(long, value_name = "NAME")]
        token: Option<String>,
        /// A file with the new PIN, instead of the configured source.
        #[arg(long, value_name = "FILE")]
        pin_file: Option<PathBuf>,
        /// Also where the token rejected this PIN before. For a custom token without --pin-file: its password may be tried
        /// again, by ConnectCustomKeyStore.
        #[arg(long)]
        retry: bool,
        #[arg(long)]
        json: bool,
    },
    /// Take a token with another serial in the place of the known one, once every key was checked on it.
    #[command(
        after_help = "For a token that was restored onto other hardware. Keys whose fingerprint is not the recorded one refuse it."
    )]
    Replace {
        /// Its name in the configuration, `default` for [token].
        #[arg(long, value_name = "NAME")]
        token: String,
        /// Why; stands in the log.
        #[arg(long, value_name = "TICKET")]
        ticket: String,
        #[arg(long)]
        json: bool,
    },
}

impl TokenCommand {
    /// What is asked, and whether the answer shall be JSON.
    pub fn request(self) -> Result<(OperatorRequest, bool), Failed> {
        Ok(match self {
            TokenCommand::List { json } => (OperatorRequest::TokenList, json),
            TokenCommand::Reconcile { token, json } => (OperatorRequest::TokenReconcile { token }, json),
            TokenCommand::Pin { token, pin_file, retry, json } => {
                let pin_file = pin_file.map(absolute).transpose()?;
                if retry {
                    let name = token.as_deref().unwrap_or("default");
                    eprintln!(
                        "forgetting which PINs token {name} rejected on this host: each is tried once more, and a wrong one costs \
                         one of the tries that the token has"
                    );
                }
                (OperatorRequest::TokenPin { token, pin_file, retry }, json)
            }
            TokenCommand::Replace { token, ticket, json } => (OperatorRequest::TokenReplace { token, ticket }, json),
        })
    }
}
