//! The verbs as a person runs them: the real binary against a real server.

#[path = "client_verbs/served.rs"]
mod served;

#[path = "client_verbs/code.rs"]
mod code;
#[path = "client_verbs/node.rs"]
mod node;
#[path = "client_verbs/people.rs"]
mod people;
#[path = "client_verbs/tasks.rs"]
mod tasks;
