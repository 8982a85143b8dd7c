//! Laws of the language, over random expressions, and what people may get wrong.

use proptest::prelude::*;

use super::random::any_nodes;
use super::*;

fn columns() -> Columns {
    Columns::new(["item", "left"]).expect("names")
}

fn any_expression() -> impl Strategy<Value = Expression> {
    any_nodes(2).prop_filter_map("within the limits", |nodes| {
        Expression::new(nodes, &columns()).ok()
    })
}

fn any_table() -> impl Strategy<Value = Table> {
    let cell = prop_oneof![
        4 => (-50_i32..50).prop_map(f64::from),
        1 => any::<f64>(),
    ];
    prop::collection::vec(cell, 0..40).prop_map(|cells| Table::from_rows(&cells, 2))
}

fn scores(of: &Expression, table: &Table) -> Vec<u64> {
    let mut scores = Vec::new();
    of.evaluate(table, &mut Scratch::default(), &mut scores);
    scores.into_iter().map(f64::to_bits).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back_as_the_same_expression(written in any_expression()) {
        let text = written.to_string();
        let read = Expression::parse(&text, &columns());
        prop_assert_eq!(read.as_ref().map(Expression::nodes), Ok(written.nodes()), "{}", text);
    }

    #[test]
    fn a_simplified_expression_gives_the_same_scores(
        long in any_expression(),
        table in any_table(),
    ) {
        let short = long.simplified();
        prop_assert!(short.nodes().len() <= long.nodes().len());
        prop_assert_eq!(scores(&short, &table), scores(&long, &table), "{} and {}", short, long);
    }

    #[test]
    fn every_row_gets_a_score_that_is_a_number(of in any_expression(), table in any_table()) {
        let mut scores = Vec::new();
        of.evaluate(&table, &mut Scratch::default(), &mut scores);
        prop_assert_eq!(scores.len(), table.rows());
        prop_assert!(scores.iter().all(|score| !score.is_nan()));
    }

    #[test]
    fn no_text_and_no_bytes_break_the_reader(text in "[a-z0-9 .+*/()<=>,-]{0,80}|.{0,80}") {
        let _ = Expression::parse(&text, &columns());
    }

    #[test]
    fn any_nodes_at_all_are_either_whole_or_refused(
        nodes in prop::collection::vec(any_nodes(3).prop_map(|nodes| nodes[0]), 0..12),
    ) {
        if let Ok(whole) = Expression::new(nodes, &columns()) {
            prop_assert_eq!(whole.subtree_end(0), whole.nodes().len());
        }
    }

    #[test]
    fn a_graft_of_the_same_sort_stays_whole(
        of in any_expression(),
        graft in any_expression(),
        at in any::<prop::sample::Index>(),
    ) {
        let at = at.index(of.nodes().len());
        match of.with_subtree(at, graft.nodes()) {
            Ok(grown) => prop_assert_eq!(of.nodes()[at].sort(), Sort::Number, "{}", grown),
            Err(ShapeError::Sort(_)) => prop_assert_eq!(of.nodes()[at].sort(), Sort::Truth),
            Err(error) => prop_assert!(matches!(error, ShapeError::TooLarge | ShapeError::TooDeep)),
        }
    }
}

#[test]
fn best_fit_is_said_and_chooses_the_fullest_bin() {
    let columns = columns();
    let best_fit = Expression::parse("-(left - item)", &columns).expect("an expression");
    let table = Table::from_rows(&[3.0, 9.0, 3.0, 4.0, 3.0, 4.0, 3.0, 100.0], 2);
    assert_eq!(best_fit.choose(&table, &mut Scratch::default()), Some(1));
    assert_eq!(
        best_fit.choose(&Table::new(2), &mut Scratch::default()),
        None
    );
}

#[test]
fn the_whole_row_of_choices_is_seen() {
    let table = Table::from_rows(&[1.0, 5.0, 2.0, 9.0, 3.0, 7.0], 2);
    let given = |text: &str| {
        let of = Expression::parse(text, &columns()).expect("an expression");
        let mut scores = Vec::new();
        of.evaluate(&table, &mut Scratch::default(), &mut scores);
        scores
    };
    assert_eq!(given("most(left) - left"), [4.0, 0.0, 2.0]);
    assert_eq!(given("least(left) + sum(item)"), [11.0; 3]);
    assert_eq!(given("mean(left)"), [7.0; 3]);
    assert_eq!(given("count(6 < left and not left > 8)"), [1.0; 3]);
    assert_eq!(given("left - previous(left)"), [0.0, 4.0, -2.0]);
    assert_eq!(given("next(left)"), [9.0, 7.0, 7.0]);
    assert_eq!(
        given("if item == 2 or left <= 5 then 1 else rows"),
        [1.0, 1.0, 3.0]
    );
    assert_eq!(given("sqrt(0 - item) + item / 0"), [0.0; 3]);
    assert_eq!(
        given("min(item, 2) * max(left, 6) - floor(1.5)"),
        [5.0, 17.0, 13.0]
    );
}

#[test]
fn a_mistake_is_told_with_its_place_and_the_way_out() {
    let told = |text: &str| {
        let error = Expression::parse(text, &columns()).expect_err("a mistake");
        error.to_string()
    };
    assert_eq!(
        told(""),
        "line 1, column 1: expected a number, a column, `(`, `if` or a function, found the end"
    );
    assert_eq!(
        told("left +\n  right"),
        "line 2, column 3: `right` is neither a column (item, left) nor a word of the language"
    );
    assert_eq!(
        told("left < 3"),
        "line 1, column 1: this says whether something holds; a number is needed here"
    );
    assert_eq!(
        told("1 < 2 < 3"),
        "line 1, column 7: expected `and` or `or`, for comparisons do not chain, found `<`"
    );
    assert_eq!(
        told("if left then 1 else 2"),
        "line 1, column 4: this is a number; here it must say whether something holds"
    );
    assert_eq!(
        told("most(left, item)"),
        "line 1, column 10: expected `)`, found `,`"
    );
    assert_eq!(
        told("left item"),
        "line 1, column 6: expected an operator or the end, found `item`"
    );
    assert_eq!(told("left ? 1"), "line 1, column 6: `?` means nothing here");
    assert_eq!(told("1e999"), "line 1, column 1: `1e999` is not a number");
    let deep = "(".repeat(1000);
    assert!(told(&deep).contains("levels"), "{}", told(&deep));
    assert!(told(&"1+".repeat(9000)).contains("18000 bytes"));
}

#[test]
fn columns_have_names_that_the_language_does_not_use() {
    for refused in [
        vec![],
        vec!["Item"],
        vec!["least"],
        vec!["a", "a"],
        vec!["1a"],
        vec![""],
    ] {
        assert!(Columns::new(refused.clone()).is_err(), "{refused:?}");
    }
    assert_eq!(columns().number(), 2);
}
