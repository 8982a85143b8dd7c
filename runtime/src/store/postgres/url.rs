//! Where a database is, and how it is named to people: never with its password.

use std::fmt;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

/// The address of a PostgreSQL database, such as
/// `postgres://regrow:secret@db.example:5432/regrow?sslmode=verify-full`.
///
/// Shown, also in errors and logs, as `postgres://host:port/database`. What it leaves out is
/// taken from libpq's variables (`PGUSER`, `PGPASSWORD`, `PGSSLROOTCERT`, ...) by the driver.
#[derive(Clone)]
pub struct DatabaseUrl {
    text: String,
    options: PgConnectOptions,
}

/// The text is not the address of a database.
#[derive(Debug, thiserror::Error)]
#[error(
    "is not the address of a PostgreSQL database, such as postgres://USER@HOST:5432/DATABASE: {0}"
)]
pub struct InvalidDatabaseUrl(String);

impl DatabaseUrl {
    /// The address with its password, for programs that pass it on.
    #[must_use]
    pub fn with_password(&self) -> &str {
        &self.text
    }

    pub(super) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }
}

impl FromStr for DatabaseUrl {
    type Err = InvalidDatabaseUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |cause: &str| InvalidDatabaseUrl(cause.to_owned());
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
        {
            return Err(invalid("it has to begin with postgres:// or postgresql://"));
        }
        // What the parser says could quote the password.
        let options: PgConnectOptions = text
            .parse()
            .map_err(|_| invalid("user, host, port, database or a parameter cannot be read"))?;
        if options.get_database().is_none() {
            return Err(invalid("it names no database"));
        }
        let text = text.to_owned();
        Ok(Self { text, options })
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.options.get_host(), self.options.get_port());
        let database = self.options.get_database().unwrap_or_default();
        match self.options.get_socket() {
            Some(socket) => write!(f, "postgres://{}:{port}/{database}", socket.display()),
            None => write!(f, "postgres://{host}:{port}/{database}"),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_user_and_password() {
        let url: DatabaseUrl = "postgres://me:s3cr%65t@db.example:6000/tasks?sslmode=require"
            .parse()
            .expect("an address");
        assert_eq!(url.to_string(), "postgres://db.example:6000/tasks");
        assert_eq!(format!("{url:?}"), "postgres://db.example:6000/tasks");
    }

    #[test]
    fn what_is_no_address_is_refused_without_quoting_it() {
        for text in [
            "",
            "tasks.db",
            "mysql://me:s3cret@h/d",
            "postgres://me:s3cret@h:port/d",
            "postgres://me:s3cret@h/d?sslmode=s3cret",
        ] {
            let refused = text.parse::<DatabaseUrl>().expect_err(text).to_string();
            assert!(!refused.contains("s3cret"), "{refused}");
            assert!(refused.contains("postgres://USER@HOST"), "{refused}");
        }
    }
}
