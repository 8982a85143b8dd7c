//! Hosts by name, and the rules between them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::link::{Counts, Rules};
use crate::namespace::{Failed, Namespace, failed};
use crate::switch::{self, Number, Switch};

/// Hosts that one network has room for.
const HOSTS_MAX: Number = 200;

/// A network of its own. Ends when it and its hosts are dropped and nothing runs on them.
pub struct Network {
    switch: Switch,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
}

/// A machine of the network, as far as its network goes: files and processes are shared.
pub struct Host {
    name: String,
    number: Number,
    inside: Namespace,
}

impl Network {
    /// A network without hosts; the seed decides what is lost, and how long it takes.
    ///
    /// # Errors
    ///
    /// What the machine forbids; [`enter`](crate::enter) comes first.
    pub fn new(seed: u64) -> Result<Self, Failed> {
        Ok(Self {
            switch: Switch::start(seed)?,
            hosts: Mutex::default(),
        })
    }

    /// The host of this name, which is made if there is none.
    ///
    /// # Errors
    ///
    /// What the machine forbids, or that there is no room.
    pub fn host(&self, name: &str) -> Result<Arc<Host>, Failed> {
        let mut hosts = self.hosts.lock();
        if let Some(host) = hosts.get(name) {
            return Ok(host.clone());
        }
        let number = Number::try_from(hosts.len() + 1).ok();
        let number = number.filter(|number| *number <= HOSTS_MAX);
        let number = number.ok_or_else(|| Failed(format!("{HOSTS_MAX} hosts at most")))?;
        let inside = Namespace::new()?;
        self.switch.join(number, &inside)?;
        let host = Arc::new(Host {
            name: name.to_owned(),
            number,
            inside,
        });
        hosts.insert(name.to_owned(), host.clone());
        Ok(host)
    }

    /// Rules for what one host sends to another, from now on.
    ///
    /// # Panics
    ///
    /// If there is no such host.
    pub fn set(&self, from: &str, to: &str, rules: Rules) {
        self.switch.set(self.number(from), self.number(to), rules);
    }

    /// Rules in both directions.
    ///
    /// # Panics
    ///
    /// If there is no such host.
    pub fn set_between(&self, one: &str, other: &str, rules: Rules) {
        self.set(one, other, rules);
        self.set(other, one, rules);
    }

    /// Rules for everything that leaves a host.
    ///
    /// # Panics
    ///
    /// If there is no such host.
    pub fn set_leaving(&self, from: &str, rules: Rules) {
        for other in self.others(from) {
            self.set(from, &other, rules);
        }
    }

    /// Rules for everything that is sent to a host.
    ///
    /// # Panics
    ///
    /// If there is no such host.
    pub fn set_reaching(&self, to: &str, rules: Rules) {
        for other in self.others(to) {
            self.set(&other, to, rules);
        }
    }

    /// Rules for all links of a host, in both directions.
    ///
    /// # Panics
    ///
    /// If there is no such host.
    pub fn set_around(&self, host: &str, rules: Rules) {
        self.set_leaving(host, rules);
        self.set_reaching(host, rules);
    }

    /// The same rules for all links.
    pub fn set_all(&self, rules: Rules) {
        let hosts: Vec<String> = self.hosts.lock().keys().cloned().collect();
        for host in hosts {
            self.set_leaving(&host, rules);
        }
    }

    /// What became of what one host sent to another.
    ///
    /// # Panics
    ///
    /// If there is no such host.
    pub fn counts(&self, from: &str, to: &str) -> Counts {
        self.switch.counts(self.number(from), self.number(to))
    }

    fn others(&self, name: &str) -> Vec<String> {
        let hosts = self.hosts.lock();
        hosts
            .keys()
            .filter(|other| *other != name)
            .cloned()
            .collect()
    }

    fn number(&self, name: &str) -> Number {
        let hosts = self.hosts.lock();
        let host = hosts.get(name).expect("a host of this network");
        host.number
    }
}

impl Host {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where others reach it.
    #[must_use]
    pub fn four(&self) -> Ipv4Addr {
        switch::four(self.number)
    }

    /// Where others reach it, too.
    #[must_use]
    pub fn six(&self) -> Ipv6Addr {
        switch::six(self.number)
    }

    /// Does something there, and waits for it: for what takes no time, such as making a socket
    /// or starting a process. Both stay there whoever uses them afterwards.
    ///
    /// # Panics
    ///
    /// If it panicked.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.inside.run(job)
    }

    /// Processes that are started there from now on ask this file for name servers; it is written
    /// to `file`.
    ///
    /// # Errors
    ///
    /// What the machine forbids.
    pub fn ask_name_server(&self, server: Ipv4Addr, file: &Path) -> Result<(), Failed> {
        let text = format!("nameserver {server}\noptions timeout:1 attempts:2\n");
        std::fs::write(file, text).map_err(failed("resolv.conf"))?;
        self.inside.put_over(file, "/etc/resolv.conf")
    }
}
