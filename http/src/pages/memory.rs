//! `/memory`: what the agents of this node know together about the tasks they work on.

use std::sync::Arc;

use maud::{Markup, html};
use regrow_runtime::context::record::ContextRecord;
use regrow_runtime::json::Json;

use super::frame::Place;
use super::live::{Page, answer};
use super::parts::{nothing, pill, task_link, time};
use super::task::document;
use super::visit::Visit;
use super::words::{Tone, beginning, count, several};
use crate::error::ApiError;
use crate::params::Params;
use crate::routes::Answer;

/// Records that are looked through.
const LOOKED_MAX: usize = 2_000;
/// Records on the page.
const SHOWN_MAX: usize = 40;

/// `GET /memory`
pub(crate) async fn show(visit: Visit, mut params: Params) -> Answer {
    let query = params.text("q").map(|text| text.trim().to_lowercase());
    params.finish()?;
    answer(Memory(query.filter(|text| !text.is_empty())), visit).await
}

struct Memory(Option<String>);

impl Page for Memory {
    const PLACE: Place = Place::Memory;

    fn title(&self) -> String {
        "Memory".to_owned()
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let all = visit.state.context.list(LOOKED_MAX);
        let found: Vec<&Arc<ContextRecord>> =
            all.iter().filter(|record| self.wants(record)).collect();
        Ok(html! {
            div .title {
                h1 { "Memory" }
                p .lead { "What agents note about the tasks they work on. It is durable, and outlives them." }
            }
            form #filter .filter method="get" action="/memory" role="search" hx-morph-skip {
                label for="q" .unseen { "Search" }
                input #q name="q" type="search" value=[self.0.as_deref()] data-search maxlength="100" placeholder="Task, status, note or finding";
                button type="submit" { "Search" }
                @if self.0.is_some() { a .button href="/memory" { "Show all" } }
            }
            p .hint {
                (several(found.len() as u64, "record", "records")) @if self.0.is_some() { " of the newest " (count(all.len() as u64)) } ", the last changed first"
                @if SHOWN_MAX < found.len() { "; the first " (SHOWN_MAX) " are shown" } "."
            }
            @if found.is_empty() {
                (nothing("Nothing is noted that is like that.", &html! { p { "Agents note what they do as they work: " code { "regrow run \"audit the docs in .\"" } } }))
            }
            @for record in found.iter().take(SHOWN_MAX) { (one(record)) }
        })
    }
}

impl Memory {
    fn wants(&self, record: &ContextRecord) -> bool {
        let Some(sought) = &self.0 else {
            return true;
        };
        let text = serde_json::to_string(record).unwrap_or_default();
        text.to_lowercase().contains(sought.as_str())
    }
}

fn one(record: &ContextRecord) -> Markup {
    let status = serde_json::to_value(record.status).ok();
    let status = status
        .as_ref()
        .and_then(|status| status.as_str())
        .unwrap_or("not known")
        .replace('_', " ");
    let tone = match status.as_str() {
        "completed" => Tone::Good,
        "failed" => Tone::Bad,
        "cancelled" => Tone::Quiet,
        _ => Tone::Active,
    };
    let notes = Json::of(&record.attrs).ok();
    html! {
        details .panel #(format!("m-{}", record.task)) {
            summary .row {
                (pill(tone, &status)) (task_link(record.task))
                span .hint {
                    (several(record.attrs.len() as u64, "note", "notes")) ", " (several(record.findings.len() as u64, "finding", "findings"))
                    ", changed " (time(record.updated_at))
                }
            }
            @if let Some(notes) = &notes { (document(notes)) }
            @if !record.findings.is_empty() {
                ul .reasons {
                    @for finding in record.findings.iter().rev().take(20) {
                        li { (time(finding.at)) " " code { (beginning(finding.body.as_str(), 400)) } }
                    }
                }
                @if 0 < record.findings_dropped { p .hint { (count(record.findings_dropped)) " older ones gave way to newer ones." } }
            }
        }
    }
}
