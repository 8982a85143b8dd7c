//! The children of a task as a graph of what waits for what.

use std::collections::HashMap;

use maud::{Markup, html};
use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::task::TaskView;

use super::at;
use crate::pages::parts::{state, task_link};
use crate::pages::tasks::name;
use crate::pages::words::{self, beginning};

/// Children that are drawn; more are listed.
const DRAWN_MAX: usize = 60;
const WIDTH: f64 = 190.0;
const HEIGHT: f64 = 40.0;
const GAP_X: f64 = 48.0;
const GAP_Y: f64 = 12.0;

/// Where a child is drawn: column by what it waits for, row by its order there.
fn places(children: &[TaskView]) -> Vec<(usize, usize)> {
    let position: HashMap<TaskId, usize> = children
        .iter()
        .enumerate()
        .map(|(position, view)| (view.body.id, position))
        .collect();
    let mut columns: Vec<usize> = Vec::with_capacity(children.len());
    let mut rows: HashMap<usize, usize> = HashMap::new();
    let mut places = Vec::with_capacity(children.len());
    for view in children {
        let before = view.body.depends_on.iter();
        // Whatever a child waits for was inserted before it.
        let before = before.filter_map(|id| columns.get(*position.get(id)?).copied());
        let column = before.max().map_or(0, |before| before + 1);
        columns.push(column);
        let row = rows.entry(column).or_default();
        places.push((column, *row));
        *row += 1;
    }
    places
}

fn corner((column, row): (usize, usize)) -> (f64, f64) {
    (
        column as f64 * (WIDTH + GAP_X) + 1.0,
        row as f64 * (HEIGHT + GAP_Y) + 1.0,
    )
}

/// The children, drawn or listed.
pub(super) fn graph(children: &[TaskView]) -> Markup {
    let waits = children.iter().any(|view| !view.body.depends_on.is_empty());
    if DRAWN_MAX < children.len() || !waits {
        return list(children);
    }
    let places = places(children);
    let position: HashMap<TaskId, usize> = children
        .iter()
        .enumerate()
        .map(|(position, view)| (view.body.id, position))
        .collect();
    let columns = places.iter().map(|it| it.0).max().unwrap_or(0) + 1;
    let rows = places.iter().map(|it| it.1).max().unwrap_or(0) + 1;
    let width = columns as f64 * (WIDTH + GAP_X) - GAP_X + 2.0;
    let height = rows as f64 * (HEIGHT + GAP_Y) - GAP_Y + 2.0;
    html! {
        div .scroll tabindex="0" role="region" aria-label="Graph of the children" {
            svg .graph viewBox=(format!("0 0 {width:.0} {height:.0}")) width=(at(width)) height=(at(height)) role="group"
                aria-label="Children, and what waits for what" {
                @for (to, view) in children.iter().enumerate() {
                    @for from in view.body.depends_on.iter().filter_map(|id| position.get(id)) {
                        path .edge d=(edge(places[*from], places[to])) {}
                    }
                }
                @for (view, place) in children.iter().zip(&places) {
                    @let (x, y) = corner(*place);
                    @let (text, tone) = words::state(view.state());
                    a href=(format!("/tasks/{}", view.body.id)) .(tone.class()) {
                        title { (name(view)) ": " (text) }
                        rect x=(at(x)) y=(at(y)) width=(at(WIDTH)) height=(at(HEIGHT)) rx="5" {}
                        text x=(at(x + 10.0)) y=(at(y + 16.0)) { (beginning(&name(view), 27)) }
                        text .state x=(at(x + 10.0)) y=(at(y + 31.0)) { (text) }
                    }
                }
            }
        }
    }
}

fn edge(from: (usize, usize), to: (usize, usize)) -> String {
    let ((x1, y1), (x2, y2)) = (corner(from), corner(to));
    let (x1, y1, y2) = (x1 + WIDTH, y1 + HEIGHT / 2.0, y2 + HEIGHT / 2.0);
    let bend = GAP_X / 2.0;
    format!(
        "M{x1:.1} {y1:.1}C{:.1} {y1:.1} {:.1} {y2:.1} {x2:.1} {y2:.1}",
        x1 + bend,
        x2 - bend
    )
}

fn list(children: &[TaskView]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Children" {
            table .list {
                thead { tr { th { "State" } th { "Task" } th { "Waits for" } th { "Id" } } }
                tbody {
                    @for view in children {
                        tr {
                            td { (state(view.state())) }
                            td .text { a href=(format!("/tasks/{}", view.body.id)) { (name(view)) } }
                            td { @for id in view.body.depends_on.iter().take(5) { (task_link(*id)) " " } }
                            td .id { (task_link(view.body.id)) }
                        }
                    }
                }
            }
        }
    }
}
