//! Tokens and the audit record without a node: in the data directory of one that is stopped,
//! or in a database beside those that run.

use std::path::PathBuf;

use clap::Args;
use regrow_runtime::access::audit::Audit;
use regrow_runtime::access::keyring::Keyring;
use regrow_runtime::access::place::Place;
use regrow_runtime::clock::Clock;
use regrow_runtime::store::Store;
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::postgres::PostgresConfig;
use regrow_runtime::store::postgres::apart::Apart;
use regrow_runtime::store::sqlite::Sqlite;

use super::Failure;
use crate::config::{self, Overrides};

/// The chain of whoever works on a database from the command line.
const CHAIN: &str = "local";

/// Where to work, if not through a running node.
#[derive(Args, Clone, Debug)]
pub(super) struct PlaceArgs {
    /// Work on the store that the configuration names, not through a node
    #[arg(long, global = true)]
    local: bool,
    /// Work on the data directory of a node that is stopped
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Work on a database, beside its nodes; pass a password by REGROW_STORE__DATABASE_URL and
    /// --local instead
    #[arg(long, value_name = "URL", global = true)]
    database_url: Option<String>,
    /// Configuration file of the node
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

impl PlaceArgs {
    /// No node is to be asked.
    pub(super) fn is_local(&self) -> bool {
        self.local
            || self.data_dir.is_some()
            || self.database_url.is_some()
            || self.config.is_some()
    }
}

/// A store, opened for this verb alone.
pub(super) struct Local {
    pub(super) place: Place,
    pub(super) clock: Clock,
    node: String,
    chain: String,
    /// Held until the store is closed.
    _dir: Option<DataDir>,
}

/// A failure that another setting or another moment mends. Nothing was done.
fn unusable(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::Outcome(regrow_runtime::causes::chain(error))
}

impl Local {
    /// Opens the store that flags, environment and file name.
    pub(super) async fn open(args: &PlaceArgs) -> Result<Self, Failure> {
        let overrides = Overrides {
            file: args.config.clone(),
            data_dir: args.data_dir.clone(),
            database_url: args.database_url.clone(),
            ..Overrides::default()
        };
        let loaded = config::load(&overrides, std::env::vars());
        let config = loaded
            .map_err(|wrong| Failure::Usage(wrong.to_string()))?
            .config;
        let (node, life_term) = (config.name, config.life_term);
        if let Some(url) = config.database_url {
            let config = PostgresConfig {
                url,
                node: "command line".to_owned(),
                instance: CHAIN.to_owned(),
                life_term,
            };
            let apart = Apart::open(config).await.map_err(|it| unusable(&it))?;
            let clock = apart.clock().await.map_err(|it| unusable(&it))?;
            return Ok(Self {
                place: Place::Database(apart),
                clock,
                node: "command line".to_owned(),
                chain: CHAIN.to_owned(),
                _dir: None,
            });
        }
        let mut dir = DataDir::open(&config.data_dir).map_err(|error| {
            let hint = "; through a node that runs there: leave out --local and --data-dir";
            Failure::Outcome(format!("{}{hint}", regrow_runtime::causes::chain(&error)))
        })?;
        let instance = dir.identity().map_err(|it| unusable(&it))?;
        let store = Sqlite::open(&mut dir).await.map_err(|it| unusable(&it))?;
        Ok(Self {
            place: Place::Alone(Store::Sqlite(store)),
            clock: Clock::system(),
            chain: Audit::chain_of(&node, &instance),
            node,
            _dir: Some(dir),
        })
    }

    /// The tokens.
    pub(super) async fn keyring(&self) -> Result<Keyring, Failure> {
        let opened = Keyring::open(self.place.clone(), self.clock).await;
        opened.map_err(|it| unusable(&it))
    }

    /// The record.
    pub(super) fn audit(&self) -> Audit {
        let (place, chain) = (self.place.clone(), self.chain.clone());
        Audit::new(place, self.clock, &self.node, chain)
    }

    pub(super) async fn close(self) {
        self.place.close().await;
    }
}
