//! The layers, the problems, and the table of keys.

use super::*;

fn loaded(file: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("regrow.toml");
    std::fs::write(&path, file).expect("writable");
    let overrides = Overrides {
        file: Some(path),
        ..Overrides::default()
    };
    load(
        &overrides,
        environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
    )
}

#[test]
fn all_problems_are_reported_at_once_with_key_value_and_range() {
    let file = "
        surprise = 1
        [queue]
        max_size = -4
        max_sise = 10
        retry_first = 5
        [http]
        public_url = \"ftp://a\"
        [health]
        deadline = \"1h 1m\"
    ";
    let text = loaded(file, &[("REGROW_AGENTS__WORKERS", "many")])
        .expect_err("refused")
        .to_string();
    for expected in [
        "7 problems",
        "http.public_url: found \"ftp://a\"",
        "queue.max_size: found -4, expected a whole number from 1 to 100000000",
        "queue.max_sise: is not a setting; did you mean `queue.max_size`?",
        "queue.retry_first: found 5, expected a duration such as \"5s\"",
        "health.deadline: found \"1h 1m\", expected a duration",
        "agents.workers: found \"many\"",
        "(from $REGROW_AGENTS__WORKERS)",
        "surprise: is not a setting",
    ] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
}

#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("regrow.toml");
    std::fs::write(&path, "[node]\nname = \"file\"\n[queue]\nmax_size = 7\n").expect("writable");
    let overrides = Overrides {
        file: Some(path),
        name: Some("flag".to_owned()),
        ..Overrides::default()
    };
    let environment = [
        ("REGROW_NODE__NAME".to_owned(), "environment".to_owned()),
        ("REGROW_QUEUE__MAX_SIZE".to_owned(), "9".to_owned()),
        ("REGROW_URL".to_owned(), "http://elsewhere".to_owned()),
    ];
    let loaded = load(&overrides, environment.into_iter()).expect("valid");
    assert_eq!(loaded.config.name, "flag");
    assert_eq!(loaded.config.queue.max_size, 9);
}

#[test]
fn what_is_printed_can_be_read_back() {
    let first = loaded(
        "[queue]\nmax_size = 12\n[agents]\nlease = \"2s 500ms\"\n",
        &[],
    )
    .expect("valid");
    let second = loaded(&first.to_toml(), &[]).expect("valid");
    assert_eq!(second.config.queue, first.config.queue);
    assert_eq!(second.config.agents.limits, first.config.agents.limits);
}

#[test]
fn relations_between_values_are_checked() {
    let text = loaded("[health]\nperiod = \"100ms\"\ndeadline = \"200ms\"\n", &[])
        .expect_err("refused")
        .to_string();
    assert!(text.contains("health.deadline"), "{text}");
}

#[test]
fn a_missing_file_is_an_error_only_when_it_was_named() {
    let overrides = Overrides {
        file: Some("/nonexistent/regrow.toml".into()),
        ..Overrides::default()
    };
    let text = load(&overrides, std::iter::empty())
        .expect_err("refused")
        .to_string();
    assert!(
        text.contains("/nonexistent/regrow.toml cannot be read"),
        "{text}"
    );
}

#[test]
fn every_default_is_valid_and_printed_with_its_source() {
    let loaded = load(&nothing_said(), std::iter::empty()).expect("the defaults are valid");
    let printed = loaded.to_toml();
    let again = self::loaded(&printed, &[]).expect("what is printed is valid");
    assert_eq!(loaded.effective.len(), again.effective.len());
    for (key, value) in &loaded.effective {
        assert_eq!(value.source, reader::Source::Default, "{key}");
        assert_eq!(value.value, again.effective[key].value, "{key}");
    }
}

#[test]
fn every_key_can_be_set_by_the_environment() {
    let defaults = load(&nothing_said(), std::iter::empty()).expect("valid");
    for (key, value) in &defaults.effective {
        let name = format!("REGROW_{}", key.to_uppercase().replace('.', "__"));
        let plain = value.value.trim_matches('"').to_owned();
        let variable = [(name.clone(), plain)].into_iter();
        let loaded = load(&nothing_said(), variable).expect("valid");
        let found = &loaded.effective[key];
        assert_eq!(found.value, value.value, "{key}");
        assert_eq!(found.source, reader::Source::Environment(name));
    }
}

#[test]
fn json_carries_values_with_their_types() {
    let loaded = loaded("[node]\nname = \"n\"\n[queue]\nmax_size = 7\n", &[]).expect("valid");
    let json = loaded.to_json();
    assert_eq!(json["node.name"]["value"], "n");
    assert_eq!(json["queue.max_size"]["value"], 7);
    assert_eq!(json["rehearsal.enabled"]["value"], false);
    assert_eq!(json["rehearsal.enabled"]["source"], "default");
}

#[test]
fn a_database_is_shown_without_its_password_right_or_wrong() {
    let file = "[store]\ndatabase_url = \"postgres://me:s3cret@db.example/tasks\"\n";
    let right = loaded(file, &[]).expect("valid");
    assert!(right.config.database_url.is_some());
    let wrong = loaded(
        "[store]\ndatabase_url = \"mysql://me:s3cret@db.example/tasks\"\n",
        &[],
    );
    let wrong = wrong.expect_err("refused");
    let shown = [
        right.to_toml(),
        right.to_json().to_string(),
        format!("{:?}", right.config),
        wrong.to_string(),
        wrong.to_json().to_string(),
    ];
    for shown in shown {
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("postgres://"), "{shown}");
    }
}

#[test]
fn a_file_that_is_not_toml_is_named() {
    let text = loaded("[queue\nmax_size = 1", &[])
        .expect_err("refused")
        .to_string();
    assert!(
        text.contains("is not TOML") && text.contains("regrow.toml"),
        "{text}"
    );
}

#[test]
fn a_data_directory_that_is_not_utf8_is_refused_rather_than_renamed() {
    use std::os::unix::ffi::OsStringExt as _;
    let name = std::ffi::OsString::from_vec(b"/tmp/caf\xe9".to_vec());
    let overrides = Overrides {
        data_dir: Some(name.into()),
        ..nothing_said()
    };
    let refused = load(&overrides, std::iter::empty()).expect_err("refused");
    let text = refused.to_string();
    assert!(text.contains("node.data_dir: found \"/tmp/caf"), "{text}");
}

/// Without a file, so that the test does not read whatever lies in the present directory.
fn nothing_said() -> Overrides {
    Overrides {
        file: Some("/dev/null".into()),
        ..Overrides::default()
    }
}

#[test]
fn founders_are_a_list_or_one_text_and_nothing_else() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").expect("writable");
    let file = |founders: &str| {
        format!(
            "[node]\nname = \"b\"\n[cluster]\nlisten = \"127.0.0.1:7410\"\n\
             secret_file = {:?}\nfounders = {founders}\nsplit_brain = \"static-quorum:2\"\n\
             stable_after = \"2s\"\n",
            secret.display().to_string()
        )
    };
    for founders in ["[\"a\", \"b\", \"c\"]", "\"a, b,c\""] {
        let loaded = loaded(&file(founders), &[]).expect("sound");
        let among = loaded.config.founders.expect("founders");
        let names: Vec<&str> = among.founders.iter().map(|name| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(among.config.split_brain.stable_after, 2 * SECOND);
    }
    let alone = loaded(&file("[]"), &[]).expect("sound");
    assert!(alone.config.founders.is_none());
    let refused = loaded(&file("[1]"), &[]).expect_err("no names").to_string();
    assert!(refused.contains("cluster.founders: found [1]"), "{refused}");
}

#[test]
fn telemetry_is_off_until_somebody_names_a_receiver_and_our_names_go_before_the_standard_ones() {
    let export = |file: &str, environment: &[(&str, &str)]| {
        let loaded = loaded(file, environment).expect("valid");
        loaded.config.export
    };
    assert_eq!(export("", &[]), None);
    let standard = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"),
        ("OTEL_SERVICE_NAME", "shop"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
    ];
    let found = export(
        "[telemetry]\nendpoint = \"http://file:1\"\nlogs = false\n",
        &standard,
    );
    let found = found.expect("on");
    assert_eq!(found.receiver.endpoint, "http://127.0.0.1:4318");
    assert_eq!((&*found.service, found.sample_ratio), ("shop", 0.25));
    assert!(found.traces && !found.logs);
    let ours = ("REGROW_TELEMETRY__ENDPOINT", "http://ours:4318");
    let found = export("", &[standard[0], ours]).expect("on");
    assert_eq!(found.receiver.endpoint, "http://ours:4318");
    assert_eq!(
        export("", &[standard[0], ("REGROW_TELEMETRY__ENDPOINT", "")]),
        None
    );

    let wrong = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "far:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"),
        ("REGROW_TELEMETRY__SAMPLE_RATIO", "1.5"),
    ];
    let text = loaded("", &wrong).expect_err("refused").to_string();
    for expected in [
        "telemetry.endpoint: found \"far:4318\"",
        "telemetry.protocol: found \"http/json\", expected \"http/protobuf\" or \"grpc\"",
        "telemetry.timeout: found \"soonms\"",
        "telemetry.headers: entry 1 has no `=`",
        "(from $OTEL_EXPORTER_OTLP_ENDPOINT)",
        "telemetry.sample_ratio: found \"1.5\", expected a part from 0.0 to 1.0",
    ] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn what_is_said_to_a_receiver_follows_the_standard_and_what_is_not_honoured_is_refused_by_name() {
    let endpoint = (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "https://collector.example:4317",
    );
    let standard = [
        endpoint,
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret,x-team=a%20b"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://elsewhere:1"),
    ];
    let found = loaded("", &standard).expect("valid");
    let shown = found.to_toml();
    assert!(
        shown.contains("headers = [\"api-key=***\", \"x-team=***\"]"),
        "{shown}"
    );
    let receiver = found.config.export.expect("on").receiver;
    assert_eq!(receiver.protocol, crate::telemetry::Protocol::Grpc);
    assert_eq!(receiver.timeout, Duration::from_millis(2_500));
    assert!(receiver.gzip);
    let said = format!("{shown} {receiver:?}");
    assert!(!said.contains("s3cret"), "{said}");

    let refused = |more: &[(&str, &str)]| {
        let all = [&[endpoint], more].concat();
        loaded("", &all).expect_err("refused").to_string()
    };
    for signal in [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
    ] {
        let text = refused(&[(signal, "x")]);
        assert!(
            text.contains(&format!("{signal} is not honoured")),
            "{text}"
        );
        let off = match signal.contains("TRACES") {
            true => ("REGROW_TELEMETRY__TRACES", "false"),
            false => ("REGROW_TELEMETRY__LOGS", "false"),
        };
        assert!(loaded("", &[endpoint, (signal, "x"), off]).is_ok());
        assert!(
            loaded("", &[(signal, "x")]).is_ok(),
            "nothing is sent at all"
        );
    }
    let path = (
        "REGROW_TELEMETRY__ENDPOINT",
        "https://collector.example/otlp",
    );
    assert!(loaded("", &[path]).is_ok());
    let grpc = ("REGROW_TELEMETRY__PROTOCOL", "grpc");
    assert!(refused(&[path, grpc]).contains("gRPC has its own"));

    let dir = tempfile::tempdir().expect("temporary directory");
    let empty = dir.path().join("empty.pem").display().to_string();
    std::fs::write(&empty, "nothing\n").expect("writable");
    let missing = dir.path().join("missing.pem").display().to_string();
    for (setting, expected) in [
        (("REGROW_TELEMETRY__AUTHORITY", &*missing), "cannot be read"),
        (
            ("REGROW_TELEMETRY__AUTHORITY", &*empty),
            "has no certificate in PEM",
        ),
        (
            ("REGROW_TELEMETRY__KEY", &*empty),
            "since telemetry.key is set",
        ),
    ] {
        let text = refused(&[setting]);
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    let plain = (
        "REGROW_TELEMETRY__ENDPOINT",
        "http://collector.example:4318",
    );
    let text = refused(&[plain, ("REGROW_TELEMETRY__AUTHORITY", &empty)]);
    assert!(text.contains("but telemetry.endpoint is http"), "{text}");
}

/// A file with keys that exist, each with any value.
fn any_file() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let value = prop_oneof![
        any::<i64>().prop_map(|it| it.to_string()),
        any::<bool>().prop_map(|it| it.to_string()),
        any::<f64>().prop_map(|it| format!("{it:?}")),
        "[0-9]{0,30}(ns|ms|s|m|h|d|y| )?".prop_map(|it| format!("\"{it}\"")),
        "[ -!#-\\[\\]-~]{0,20}".prop_map(|it| format!("\"{it}\"")),
        "[a-z]{0,6}".prop_map(|it| format!("[\"{it}\", 1]")),
        "\\PC{0,12}",
    ];
    let key = prop::sample::select(vec![
        ("http", "listen"),
        ("http", "public_url"),
        ("http", "cors_origins"),
        ("http", "body_timeout"),
        ("http", "body_bytes_max"),
        ("node", "name"),
        ("node", "labels"),
        ("node", "taints"),
        ("queue", "max_size"),
        ("store", "life_term"),
        ("store", "database_url"),
        ("cluster", "listen"),
        ("cluster", "dns"),
        ("cluster", "founders"),
        ("nowhere", "nothing"),
    ]);
    prop::collection::vec((key, value), 0..5).prop_map(|lines| {
        let line = |((section, key), value): &((&str, &str), String)| {
            format!("{section}.{key} = {value}\n")
        };
        lines.iter().map(line).collect()
    })
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

    #[test]
    fn any_file_is_sound_or_is_refused_with_what_is_wrong(text in any_file()) {
        if let Err(refused) = loaded(&text, &[]) {
            proptest::prop_assert!(!refused.to_string().is_empty());
        }
    }
}
