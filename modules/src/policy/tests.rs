//! The same bytes for the same source, and the same bits as the source itself gives.

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::*;
use crate::capability::Grants;
use crate::expression::random::any_nodes;
use crate::expression::{Columns, Scratch, Table};
use crate::host::{Host, HostLimits, Level, Metering, Observation, Scalar, Surroundings};
use crate::inspection::SizeLimits;

/// Hears nothing, says nothing.
struct Nowhere;

impl Surroundings for Nowhere {
    fn log_enabled(&self, _: Level) -> bool {
        false
    }
    fn log(&self, _: Level, _: &str, _: &[(String, String)]) {}
    fn count(&self, _: &str, _: u64) {}
    fn gauge(&self, _: &str, _: f64) {}
    fn observe(&self, _: &str, _: f64) {}
    fn now(&self) -> u64 {
        0
    }
    fn monotonic(&self) -> u64 {
        0
    }
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let limits = HostLimits {
        instances_max: 4,
        ..HostLimits::default()
    };
    Host::new(limits, Metering::Time).expect("an engine")
});

#[test]
fn an_expression_becomes_a_component_of_a_few_kilobytes_and_always_the_same() {
    let columns = Columns::new(["item", "left"]).expect("names");
    let expression = Expression::parse("if left - item <= 2 then 1 else most(left)", &columns);
    let expression = expression.expect("an expression");
    let manifest = Manifest {
        name: "packing".to_owned(),
        version: "1.0.0".to_owned(),
        kinds: vec!["item".to_owned()],
    };
    let bytes = component(&expression, &manifest).expect("a component");
    assert!(bytes.len() < 16 * 1024, "{} bytes", bytes.len());
    assert_eq!(component(&expression, &manifest).expect("again"), bytes);
    wasmparser::Validator::new()
        .validate_all(&bytes)
        .expect("valid");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_compiled_expression_gives_the_same_bits_as_the_native_evaluation(
        nodes in any_nodes(2),
        cells in prop::collection::vec(prop_oneof![
            4 => (-50_i32..50).prop_map(f64::from),
            1 => any::<f64>(),
        ], 0..40),
    ) {
        let columns = Columns::new(["item", "left"]).expect("names");
        let Ok(expression) = Expression::new(nodes, &columns) else { return Ok(()) };
        let cells = &cells[..cells.len() / 2 * 2];
        let table = Table::from_rows(cells, 2);
        let mut native = Vec::new();
        expression.evaluate(&table, &mut Scratch::default(), &mut native);

        let manifest = Manifest { name: "any".into(), version: "1.0.0".into(), kinds: vec![] };
        let bytes = component(&expression, &manifest).expect("a component");
        let prepared = HOST.prepare(&bytes, &SizeLimits::UNTRUSTED, Grants::NONE).expect("prepared");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (scores, row) = runtime.block_on(async {
            let mut policy = prepared.instance(2_000, Arc::new(Nowhere)).await.expect("an instance");
            let scores = policy.score(cells, 2).await.expect("scored");
            let asked = Observation {
                seq: 1,
                at: 0,
                kind: "item".into(),
                features: cells.to_vec(),
                attrs: vec![],
                payload: vec![],
            };
            (scores, policy.decide(&asked).await.ok().map(|action| action.params[0].val.clone()))
        });
        let bits = |scores: &[f64]| scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&scores), bits(&native), "{}", &expression);
        let chosen = expression.choose(&table, &mut Scratch::default());
        let chosen = chosen.map(|row| Scalar::Integer(i64::try_from(row).expect("few rows")));
        prop_assert_eq!(row, chosen, "{}", &expression);
    }
}
