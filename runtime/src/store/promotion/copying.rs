//! Copying a file into a database: everything once, then what was touched again.

use super::{Mark, PromotionError, Touched};
use crate::clock::Timestamp;
use crate::queue::control::Control;
use crate::queue::machine::{CARRIED_SPACE, whither};
use crate::store::StoreError;
use crate::store::data_dir::DataDir;
use crate::store::postgres::import::Import;
use crate::store::postgres::{Postgres, PostgresConfig};
use crate::store::sqlite::Sqlite;
use crate::store::sqlite::export::{Cursor, Portion};

/// Tasks of one transaction that are copied again.
const AGAIN_MAX: usize = 500;

/// A file that is being copied.
#[derive(Debug)]
pub(crate) struct Copying {
    from: Sqlite,
    import: Import,
    rows: u64,
    rows_total: u64,
}

/// How far a copy is, in rows; the total grows with what is touched meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rows copied.
    pub rows: u64,
    /// Rows to copy, as far as that is known.
    pub of: u64,
}

impl Copying {
    /// Looks whether `from` may go to `target`, and begins.
    ///
    /// # Errors
    ///
    /// [`PromotionError`]; the database holds nothing of the file.
    pub(crate) async fn begin(from: &Sqlite, target: &Postgres) -> Result<Self, PromotionError> {
        let file = from.identity().await?;
        let (boots, _) = from.meta().await?;
        let import = target.import(&file, boots).await?;
        let counts = from.counts().await?;
        Ok(Self {
            from: from.clone(),
            import,
            rows: 0,
            rows_total: counts.iter().map(|(_, rows)| rows).sum(),
        })
    }

    pub(crate) fn copied(&self) -> Copied {
        Copied {
            rows: self.rows,
            of: self.rows_total.max(self.rows),
        }
    }

    /// Copies everything, portion by portion, each as it stands then.
    ///
    /// # Errors
    ///
    /// [`PromotionError`]
    pub(crate) async fn everything(
        &mut self,
        tell: &(dyn Fn(Copied) + Sync),
    ) -> Result<(), PromotionError> {
        let mut cursor = Cursor::default();
        while let Some((portion, next)) = self.from.next_portion(cursor).await? {
            cursor = next;
            self.portion(portion).await?;
            tell(self.copied());
        }
        Ok(())
    }

    /// Copies again what was touched.
    ///
    /// # Errors
    ///
    /// [`PromotionError`]
    pub(crate) async fn again(
        &mut self,
        touched: Touched,
        tell: &(dyn Fn(Copied) + Sync),
    ) -> Result<(), PromotionError> {
        if touched.overflowed {
            return Err(PromotionError::TooBusy);
        }
        self.rows_total = self.rows + touched.len() as u64;
        let mut tasks: Vec<u64> = touched.tasks.into_iter().collect();
        tasks.sort_unstable();
        let budgets: Vec<String> = touched.budgets.into_iter().collect();
        let documents: Vec<(String, String)> = touched
            .documents
            .into_iter()
            .map(|(space, key)| (space.to_owned(), key))
            .collect();
        let portions = tasks
            .chunks(AGAIN_MAX)
            .map(|tasks| Portion::Tasks(tasks.to_vec()));
        let portions = portions.chain(
            budgets
                .chunks(AGAIN_MAX)
                .map(|scopes| Portion::Budgets(scopes.to_vec())),
        );
        let portions = portions.chain(
            documents
                .chunks(AGAIN_MAX)
                .map(|keys| Portion::Documents(keys.to_vec())),
        );
        for portion in portions {
            self.portion(portion).await?;
            tell(self.copied());
        }
        Ok(())
    }

    async fn portion(&mut self, portion: Portion) -> Result<(), PromotionError> {
        self.rows += self.import.copy(&self.from, portion).await?;
        Ok(())
    }

    /// Copies the rest, while nothing is written into the file, and finds everything there.
    /// Says what to write into the file, and the switches that the database has of its own.
    ///
    /// # Errors
    ///
    /// [`PromotionError`]; what was copied is taken back, if that is possible.
    pub(crate) async fn finish(
        mut self,
        rest: Touched,
        at: Timestamp,
    ) -> Result<(Mark, Option<Control>), PromotionError> {
        let copied = async {
            self.again(rest, &|_| ()).await?;
            self.portion(Portion::Reservations).await?;
            let (_, control) = self.from.meta().await?;
            let control = self.import.control(control.as_deref()).await?;
            Ok((control, self.from.counts().await?))
        };
        match copied.await {
            Ok((control, counts)) => Ok((self.import.prepare(&counts, at).await?, control)),
            Err(error) => {
                self.give_up().await;
                Err(error)
            }
        }
    }

    /// Takes back what was copied; what cannot be taken back, the next try removes.
    pub(crate) async fn give_up(self) {
        if let Err(reason) = self.import.give_up().await {
            tracing::warn!(%reason, "what was copied is still there; the next try removes it");
        }
    }
}

/// Moves a file that no node runs on. The next node of this name goes on with its tasks, or
/// another on the same database.
///
/// # Errors
///
/// [`PromotionError`], such as [`PromotionError::CarriedFromFile`] before anything is copied; the
/// file is as it was, unless only the last step failed: then it is
/// marked, and the next start on the database makes up for it.
pub async fn promote_file(
    dir: &mut DataDir,
    to: PostgresConfig,
    tell: impl Fn(Copied) + Sync,
) -> Result<Copied, PromotionError> {
    let file = Sqlite::open(dir)
        .await
        .map_err(|error| StoreError::Failed {
            attempt: "open the file",
            cause: error.to_string().into(),
        })?;
    let moved = async {
        nothing_is_carried(&file).await?;
        let target = Postgres::open(to).await?;
        let moved = offline(&file, &target, &tell).await;
        target.close().await;
        moved
    };
    let moved = moved.await;
    file.close().await;
    moved
}

/// A shared database has no courier that would hear how carried tasks end.
async fn nothing_is_carried(file: &Sqlite) -> Result<(), PromotionError> {
    let mut first = None;
    let mut count = 0;
    for document in file.documents(CARRIED_SPACE, "", u32::MAX).await? {
        let Some((id, to)) = whither(&document) else {
            continue;
        };
        // What has ended is not waited for, whatever is on record of its way.
        if let Some(view) = file.task(id).await?.filter(|view| view.end.is_none()) {
            count += 1;
            let seq = view.body.seq;
            if first
                .as_ref()
                .is_none_or(|(earliest, _, _)| seq < *earliest)
            {
                first = Some((seq, id, to));
            }
        }
    }
    match first {
        None => Ok(()),
        Some((_, first, to)) => Err(PromotionError::CarriedFromFile { count, first, to }),
    }
}

async fn offline(
    file: &Sqlite,
    target: &Postgres,
    tell: &(dyn Fn(Copied) + Sync),
) -> Result<Copied, PromotionError> {
    let mut copying = Copying::begin(file, target).await?;
    if let Err(error) = copying.everything(tell).await {
        copying.give_up().await;
        return Err(error);
    }
    let copied = copying.copied();
    let now = target.clock().await?.now();
    let (mark, _) = copying.finish(Touched::default(), now).await?;
    file.commit(mark.changes()?.into()).await?;
    target.confirm(&mark).await?;
    Ok(copied)
}
