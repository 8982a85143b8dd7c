//! `regrow token`: make, list and revoke tokens, through a node or on its store.

use std::time::Duration;

use clap::{Args, Subcommand};
use regrow_runtime::access::audit::chain::{Action, By, Outcome};
use regrow_runtime::access::keyring::{CreateError, NewToken};
use regrow_runtime::access::scope::{Scope, Scopes};
use regrow_runtime::access::token::is_name;
use regrow_runtime::causes;
use regrow_runtime::store::StoreError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use super::access::{Local, PlaceArgs};
use super::output::{line, note, print, relative, table};
use super::tasks::encoded;
use crate::client::{Client, ClientError, NodeArgs};

#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Make a token and print its secret, which is shown this once
    Create {
        /// Who or what is to hold it
        #[arg(value_parser = name)]
        name: String,
        /// What for: read, submit, work, operate or admin; may be repeated
        #[arg(
            long = "scope",
            value_name = "SCOPE",
            required = true,
            value_delimiter = ','
        )]
        scopes: Vec<Scope>,
        /// How long it is taken, such as 30d; for ever, if that is not said
        #[arg(long, value_name = "TERM", value_parser = term)]
        expires: Option<Duration>,
    },
    /// List all tokens, without their secrets
    List,
    /// Put an end to a token, on all nodes within a second
    Revoke {
        /// Its name or id
        which: String,
    },
}

fn name(text: &str) -> Result<String, &'static str> {
    match is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("must be 1 to 64 letters, digits, `.`, `_`, `-`, `@` or `:`"),
    }
}

fn term(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(term) if !term.is_zero() => Ok(term),
        Ok(_) => Err("must be longer than nothing".to_owned()),
        Err(error) => Err(format!("must be a duration such as 30d: {error}")),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    id: String,
    name: String,
    scopes: Vec<String>,
    state: String,
    created_at: String,
    created_by: String,
    expires_at: Option<String>,
    used_at: Option<String>,
    token: String,
}

impl Told {
    fn row(&self) -> Vec<String> {
        let when = |at: &Option<String>, never: &str| {
            at.as_deref().map_or_else(|| never.to_owned(), relative)
        };
        vec![
            line(&self.id, 12),
            line(&self.name, 64),
            self.scopes.join(","),
            line(&self.state, 8),
            relative(&self.created_at),
            line(&self.created_by, 64),
            when(&self.expires_at, "never"),
            when(&self.used_at, "never"),
        ]
    }
}

pub(crate) async fn run(args: TokenArgs) -> Result<(), Failure> {
    let json = args.node.json;
    let answer = if args.place.is_local() {
        locally(&args.place, &args.verb).await?
    } else {
        match through(&args.node, &args.verb).await {
            Err(Failure::Client(away @ ClientError::Unreachable { .. })) => {
                return Err(Failure::Outcome(format!(
                    "{away}; on the store of a stopped node, or a database, add --local"
                )));
            }
            asked => asked?,
        }
    };
    if json {
        print(&answer.to_string())?;
        return Ok(());
    }
    print(&in_words(&args.verb, answer)?)?;
    Ok(())
}

fn in_words(verb: &TokenVerb, answer: Value) -> Result<String, Failure> {
    let odd = |error: serde_json::Error| Failure::Outcome(format!("unexpected answer: {error}"));
    match verb {
        TokenVerb::Create { .. } => {
            let told: Told = serde_json::from_value(answer).map_err(odd)?;
            let until = told.expires_at.as_deref().unwrap_or("it is revoked");
            note(&format!(
                "token `{}` ({}) for {}, until {until}. It is shown this once; whoever has it \
                 has these rights:",
                told.name,
                told.id,
                told.scopes.join(", ")
            ));
            Ok(told.token)
        }
        TokenVerb::List => {
            let told: Vec<Told> = serde_json::from_value(answer).map_err(odd)?;
            if told.is_empty() {
                return Ok(
                    "there is no token: whoever uses this machine may do everything, and \
                           no other machine is listened to"
                        .to_owned(),
                );
            }
            let rows: Vec<Vec<String>> = told.iter().map(Told::row).collect();
            let head = [
                "ID", "NAME", "SCOPES", "STATE", "CREATED", "BY", "EXPIRES", "USED",
            ];
            Ok(table(&head, &rows))
        }
        TokenVerb::Revoke { .. } => {
            let told: Vec<Told> = serde_json::from_value(answer["revoked"].clone()).map_err(odd)?;
            let named: Vec<String> = told
                .iter()
                .map(|one| format!("{} ({})", one.name, one.id))
                .collect();
            Ok(format!("revoked {}", named.join(", ")))
        }
    }
}

/// Asks a running node.
async fn through(node: &NodeArgs, verb: &TokenVerb) -> Result<Value, Failure> {
    let client = Client::new(node)?;
    let reply = match verb {
        TokenVerb::List => client.get("/v1/tokens").await?,
        TokenVerb::Revoke { which } => {
            let path = format!("/v1/tokens/{}", encoded(which));
            client.delete(&path).await?
        }
        TokenVerb::Create {
            name,
            scopes,
            expires,
        } => {
            let term = expires.map(|term| u64::try_from(term.as_millis()).unwrap_or(u64::MAX));
            let body = json!({ "name": name, "scopes": scopes, "term_ms": term });
            client.post("/v1/tokens", body.to_string()).await?
        }
    };
    Ok(reply.decode()?)
}

/// Works on the store, and records it like an operator's action.
async fn locally(place: &PlaceArgs, verb: &TokenVerb) -> Result<Value, Failure> {
    let local = Local::open(place).await?;
    let done = recorded(&local, verb).await;
    local.close().await;
    done
}

fn failed(error: &StoreError) -> Failure {
    Failure::Outcome(causes::chain(error))
}

async fn recorded(local: &Local, verb: &TokenVerb) -> Result<Value, Failure> {
    let (what, target) = match verb {
        TokenVerb::List => return carried_out(local, verb).await,
        TokenVerb::Create { name, .. } => ("regrow token create", name),
        TokenVerb::Revoke { which } => ("regrow token revoke", which),
    };
    let action = Action {
        what: what.to_owned(),
        target: target.clone(),
        request: None,
        body: None,
    };
    let audit = local.audit();
    let asked = audit.asked(By::local(), action.clone()).await;
    let asked = asked.map_err(|it| failed(&it))?;
    let done = carried_out(local, verb).await;
    let outcome = Outcome {
        status: if done.is_ok() { 200 } else { 409 },
        detail: match &done {
            Ok(answer) => {
                let one = |it: &Value| it["id"].as_str().map(str::to_owned);
                let revoked = answer["revoked"].as_array();
                let ids = revoked.map(|all| all.iter().filter_map(one).collect::<Vec<_>>());
                ids.map(|ids| ids.join(", ")).or_else(|| one(answer))
            }
            Err(failure) => Some(failure.to_string()),
        },
    };
    let told = audit.answered(asked, By::local(), action, outcome).await;
    told.map_err(|it| failed(&it))?;
    done
}

async fn carried_out(local: &Local, verb: &TokenVerb) -> Result<Value, Failure> {
    let keyring = local.keyring().await?;
    let now = local.clock.now();
    match verb {
        TokenVerb::List => {
            let tokens = keyring.list().await.map_err(|it| failed(&it))?;
            Ok(tokens.iter().map(|it| it.to_json(now, None)).collect())
        }
        TokenVerb::Create {
            name,
            scopes,
            expires,
        } => {
            let new = NewToken {
                name: name.clone(),
                scopes: Scopes::of(scopes.iter().copied()),
                term: *expires,
            };
            let made = keyring.create(new, "local").await;
            let (token, secret) = made.map_err(|error| match error {
                CreateError::Store(error) => failed(&error),
                refused @ (CreateError::NameTaken(_) | CreateError::Full) => {
                    Failure::Outcome(refused.to_string())
                }
            })?;
            Ok(token.to_json(now, Some(&secret)))
        }
        TokenVerb::Revoke { which } => {
            let revoked = keyring.revoke(which).await.map_err(|it| failed(&it))?;
            if revoked.is_empty() {
                return Err(Failure::Outcome(format!(
                    "there is no token `{which}` that is not revoked already"
                )));
            }
            let revoked: Vec<Value> = revoked.iter().map(|it| it.to_json(now, None)).collect();
            Ok(json!({ "revoked": revoked }))
        }
    }
}
