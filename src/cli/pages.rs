//! Lists that the node answers in pages.

use serde::de::DeserializeOwned;

use super::Failure;
use super::output::{print, table};
use super::tasks::encoded;
use crate::client::Client;

/// Rows asked for at once: as many as the node gives of the largest.
const PAGE: usize = 200;

/// One page of a list.
pub(super) trait Page: DeserializeOwned {
    /// Its rows as the table's columns, and where the next page begins.
    fn rows(self) -> (Vec<Vec<String>>, Option<String>);

    /// What has to be said beside the table.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Prints up to `limit` rows of the list at `path`, which ends in a query, or `none` if it
/// is empty. As JSON, a list that needs several requests is printed as several documents, one
/// a line.
pub(super) async fn list<P: Page>(
    client: &Client,
    json: bool,
    path: &str,
    limit: usize,
    head: &[&str],
    none: &str,
) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut cursor: Option<String> = None;
    let mut remarks;
    loop {
        let wanted = (limit - rows.len()).min(PAGE);
        let and = if path.ends_with('?') { "" } else { "&" };
        let mut path = format!("{path}{and}limit={wanted}");
        if let Some(cursor) = &cursor {
            path.push_str(&format!("&cursor={}", encoded(cursor)));
        }
        let reply = client.get(&path).await?;
        let page = reply.decode::<P>()?;
        // Of each page the same, or what is true by now.
        remarks = page.remarks();
        let (page, next) = page.rows();
        if json {
            print(&reply.text)?;
        }
        let empty = page.is_empty();
        rows.extend(page);
        cursor = next;
        if cursor.is_none() || limit <= rows.len() || empty {
            break;
        }
    }
    if json {
        return Ok(());
    }
    for remark in remarks {
        print(&remark)?;
    }
    if rows.is_empty() {
        print(none)?;
        return Ok(());
    }
    print(&table(head, &rows))?;
    if cursor.is_some() {
        print(&format!("and more; show them with --limit {}", limit * 2))?;
    }
    Ok(())
}
