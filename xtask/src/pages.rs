//! What the pages are tested with: Chromium, its fonts, and the packages that drive it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::needs::install;
use crate::{Failed, cargo, report, run};

/// Where Debian puts the browser.
const CHROMIUM: &str = "/usr/bin/chromium";
/// A font that the kept pictures are drawn with.
const FONT: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";
/// What the packages and their hashes are named in.
const NAMED: [&str; 2] = ["package.json", "package-lock.json"];

/// What the test reads to find the packages.
const PACKAGES: &str = "REGROW_PAGES_PACKAGES";

/// Runs the test in the browser alone: all of it or what is named like `only`; with `keep` the
/// pictures are taken anew instead of compared.
pub(crate) fn check(keep: bool, only: Option<&str>) -> Result<(), Failed> {
    let mut test = cargo(&[
        "test",
        "--workspace",
        "--test",
        "pages",
        "--",
        "--nocapture",
    ]);
    test.env(PACKAGES, packages()?);
    if keep {
        test.env("REGROW_PAGES_KEEP", "1");
    }
    if let Some(only) = only {
        test.env("REGROW_PAGES_ONLY", only);
    }
    run("pages", test)
}

/// Tells the tests where the packages are, or tells what does not run without them; where the
/// environment says `CI=true` that is a failure.
pub(crate) fn tell(tests: &mut Command) -> Result<Option<String>, Failed> {
    match packages() {
        Ok(packages) => {
            tests.env(PACKAGES, packages);
            Ok(None)
        }
        Err(missing) if std::env::var("CI").is_ok_and(|ci| ci == "true") => Err(missing),
        Err(missing) => Ok(Some(format!("NOT RUN: the pages in a browser: {missing}"))),
    }
}

/// Installs what is missing; tells where the packages are.
fn packages() -> Result<PathBuf, Failed> {
    let why = "the pages are tested in a real browser";
    for (file, package) in [(CHROMIUM, "chromium"), (FONT, "fonts-dejavu-core")] {
        if !Path::new(file).exists() {
            let advice =
                format!("no {file}: {why}; install it (Debian: `apt-get install {package}`)");
            install(package, &advice)?;
        }
    }
    if Command::new("npm").arg("--version").output().is_err() {
        install(
            "npm",
            &format!("no `npm`: {why}; install it (Debian: `apt-get install npm`)"),
        )?;
    }
    // This program lies in `target/debug`.
    let program = std::env::current_exe().map_err(|error| format!("where is xtask? {error}"))?;
    let target = program.ancestors().nth(2).unwrap_or(Path::new("target"));
    let folder = target.join("pages");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let source = Path::new("tests/pages");
    let mut is_new = !folder.join("node_modules/playwright-core").is_dir();
    for name in NAMED {
        let wanted = std::fs::read(source.join(name)).map_err(failed)?;
        if std::fs::read(folder.join(name)).ok().as_ref() != Some(&wanted) {
            std::fs::write(folder.join(name), wanted).map_err(failed)?;
            is_new = true;
        }
    }
    if is_new {
        report("installing the packages that drive the browser …");
        let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
        let mut npm = Command::new("npm");
        npm.args(arguments)
            .current_dir(&folder)
            .stdin(Stdio::null());
        let status = npm.stdout(Stdio::null()).status().map_err(failed)?;
        if !status.success() {
            let _ = std::fs::remove_dir_all(folder.join("node_modules"));
            return Err(format!(
                "`npm ci` in {} failed ({status}): {why}",
                folder.display()
            ));
        }
    }
    std::path::absolute(&folder).map_err(failed)
}
