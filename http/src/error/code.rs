//! The stable codes of failures, and the status of each.

use axum::http::StatusCode;

/// The stable name of a failure. Clients branch on it; it is never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The body is not JSON.
    InvalidJson,
    /// A parameter of the path or the query cannot be understood.
    InvalidParameter,
    /// Fields of the body are missing, unknown, of the wrong type or out of range.
    ValidationFailed,
    /// A task that this one depends on is missing or did not complete.
    DependencyFailed,
    /// The body is larger than the server takes.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// There is no such route.
    NotFound,
    /// There is no such task.
    TaskNotFound,
    /// The task has no such finished step.
    StepNotFound,
    /// There is no such question to a person.
    ApprovalNotFound,
    /// There is no such budget.
    BudgetNotFound,
    /// There is no such agent.
    AgentNotFound,
    /// The agent does not run at the moment.
    AgentNotRunning,
    /// There is an agent of that name already.
    AgentExists,
    /// The agent is to run, which the request does not allow.
    AgentRunning,
    /// There is no such node.
    NodeNotFound,
    /// The node is not made for rehearsals.
    RehearsalDisabled,
    /// The route does not know the method.
    MethodNotAllowed,
    /// The request names a host that is not this one.
    WrongHost,
    /// A web page of another origin asked for a change.
    CrossOrigin,
    /// A proxy passed the request on to a node that has no token.
    BehindProxy,
    /// The request brings no token.
    TokenRequired,
    /// The token is unknown, expired or revoked.
    TokenRefused,
    /// The token has not the scope that this needs.
    MissingScope,
    /// Too many wrong tokens came from this address.
    TooManyAttempts,
    /// A session changes something without its CSRF token.
    CsrfRefused,
    /// There is no such token.
    TokenNotFound,
    /// There is a token of that name already.
    TokenExists,
    /// There are as many tokens as there may be.
    TooManyTokens,
    /// There is no such chain in the audit record.
    ChainNotFound,
    /// There is no code of that agent, or no such version of it.
    CodeNotFound,
    /// There is a version of that name already, of another source.
    VersionExists,
    /// The version, or what it wants, cannot be taken away.
    VersionInUse,
    /// No version was active before.
    NoPreviousVersion,
    /// There are as many versions as there may be.
    TooManyVersions,
    /// The version wants what the agent is not granted.
    NotGranted,
    /// The code was vetted and is not taken.
    CodeRefused,
    /// The source that is kept is not the one that was staged.
    CodeDamaged,
    /// Another lease has replaced the one offered.
    StaleEpoch,
    /// The task's state does not allow it.
    WrongState,
    /// A result is larger than a task may have.
    ResultTooLarge,
    /// A step of this name is on record with another input.
    StepDiverged,
    /// The question is decided, or there is nothing left to decide.
    ApprovalClosed,
    /// The token belongs to another question.
    WrongToken,
    /// A step may cost more than a budget has left.
    OverBudget,
    /// The node that has the task was asked and has not answered yet.
    Ordered,
    /// The task's log has as many lines as it may have.
    LogFull,
    /// The node's tasks cannot be moved to another store now.
    PromotionRefused,
    /// The queue is above its high-water mark.
    QueueFull,
    /// The queue is being drained.
    Draining,
    /// Too many requests of this sort are in flight.
    Overloaded,
    /// The node is stopping.
    Stopping,
    /// The store failed or recovers.
    StoreUnavailable,
    /// The disk is full.
    DiskFull,
    /// The answer took too long.
    TimedOut,
    /// Another node has the lease's task.
    WrongNode,
    /// Nobody who answers has it, and a node that may have it is away.
    NodeAway,
    /// A bug.
    Internal,
}

impl Code {
    /// All codes.
    pub const ALL: [Self; 59] = [
        Self::InvalidJson,
        Self::InvalidParameter,
        Self::ValidationFailed,
        Self::DependencyFailed,
        Self::BodyTooLarge,
        Self::BodyTooSlow,
        Self::UnsupportedMediaType,
        Self::NotFound,
        Self::TaskNotFound,
        Self::StepNotFound,
        Self::ApprovalNotFound,
        Self::BudgetNotFound,
        Self::AgentNotFound,
        Self::AgentNotRunning,
        Self::AgentExists,
        Self::AgentRunning,
        Self::NodeNotFound,
        Self::RehearsalDisabled,
        Self::MethodNotAllowed,
        Self::WrongHost,
        Self::CrossOrigin,
        Self::BehindProxy,
        Self::TokenRequired,
        Self::TokenRefused,
        Self::MissingScope,
        Self::TooManyAttempts,
        Self::CsrfRefused,
        Self::TokenNotFound,
        Self::TokenExists,
        Self::TooManyTokens,
        Self::ChainNotFound,
        Self::CodeNotFound,
        Self::VersionExists,
        Self::VersionInUse,
        Self::NoPreviousVersion,
        Self::TooManyVersions,
        Self::NotGranted,
        Self::CodeRefused,
        Self::CodeDamaged,
        Self::StaleEpoch,
        Self::WrongState,
        Self::ResultTooLarge,
        Self::StepDiverged,
        Self::ApprovalClosed,
        Self::WrongToken,
        Self::OverBudget,
        Self::Ordered,
        Self::LogFull,
        Self::PromotionRefused,
        Self::QueueFull,
        Self::Draining,
        Self::Overloaded,
        Self::Stopping,
        Self::StoreUnavailable,
        Self::DiskFull,
        Self::TimedOut,
        Self::WrongNode,
        Self::NodeAway,
        Self::Internal,
    ];

    /// The node does not have what the request is about; another one may.
    pub(crate) fn is_unknown(self) -> bool {
        matches!(self, Self::TaskNotFound | Self::ApprovalNotFound)
    }

    /// Name, status and title.
    pub(crate) fn facts(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::InvalidJson => ("invalid_json", S::BAD_REQUEST, "the body is not JSON"),
            Self::InvalidParameter => (
                "invalid_parameter",
                S::BAD_REQUEST,
                "a parameter cannot be understood",
            ),
            Self::ValidationFailed => (
                "validation_failed",
                S::UNPROCESSABLE_ENTITY,
                "fields of the request are not valid",
            ),
            Self::DependencyFailed => (
                "dependency_failed",
                S::UNPROCESSABLE_ENTITY,
                "a dependency cannot be waited for",
            ),
            Self::BodyTooLarge => (
                "body_too_large",
                S::PAYLOAD_TOO_LARGE,
                "the body is too large",
            ),
            Self::BodyTooSlow => (
                "body_too_slow",
                S::REQUEST_TIMEOUT,
                "the body did not arrive in time",
            ),
            Self::UnsupportedMediaType => (
                "unsupported_media_type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "the body is not declared as JSON",
            ),
            Self::NotFound => ("not_found", S::NOT_FOUND, "there is no such route"),
            Self::TaskNotFound => ("task_not_found", S::NOT_FOUND, "there is no such task"),
            Self::StepNotFound => (
                "step_not_found",
                S::NOT_FOUND,
                "the task has no such finished step",
            ),
            Self::ApprovalNotFound => (
                "approval_not_found",
                S::NOT_FOUND,
                "there is no such approval",
            ),
            Self::BudgetNotFound => ("budget_not_found", S::NOT_FOUND, "there is no such budget"),
            Self::AgentNotFound => ("agent_not_found", S::NOT_FOUND, "there is no such agent"),
            Self::AgentNotRunning => (
                "agent_not_running",
                S::CONFLICT,
                "the agent does not run at the moment",
            ),
            Self::AgentExists => (
                "agent_exists",
                S::CONFLICT,
                "there is an agent of that name already",
            ),
            Self::AgentRunning => ("agent_running", S::CONFLICT, "the agent is to run"),
            Self::NodeNotFound => ("node_not_found", S::NOT_FOUND, "there is no such node"),
            Self::RehearsalDisabled => (
                "rehearsal_disabled",
                S::FORBIDDEN,
                "this node injects no faults",
            ),
            Self::MethodNotAllowed => (
                "method_not_allowed",
                S::METHOD_NOT_ALLOWED,
                "the route does not know this method",
            ),
            Self::WrongHost => (
                "wrong_host",
                S::MISDIRECTED_REQUEST,
                "the request names another host",
            ),
            Self::CrossOrigin => (
                "cross_origin",
                S::FORBIDDEN,
                "pages of other origins may not change anything",
            ),
            Self::BehindProxy => (
                "behind_proxy",
                S::FORBIDDEN,
                "this node listens to no proxy while it has no token",
            ),
            Self::TokenRequired => ("token_required", S::UNAUTHORIZED, "a token is needed"),
            Self::TokenRefused => ("token_refused", S::UNAUTHORIZED, "the token is not taken"),
            Self::MissingScope => (
                "missing_scope",
                S::FORBIDDEN,
                "the token is for something else",
            ),
            Self::TooManyAttempts => (
                "too_many_attempts",
                S::TOO_MANY_REQUESTS,
                "too many wrong tokens",
            ),
            Self::CsrfRefused => (
                "csrf_refused",
                S::FORBIDDEN,
                "the session's CSRF token is missing",
            ),
            Self::TokenNotFound => ("token_not_found", S::NOT_FOUND, "there is no such token"),
            Self::TokenExists => (
                "token_exists",
                S::CONFLICT,
                "there is a token of that name already",
            ),
            Self::TooManyTokens => (
                "too_many_tokens",
                S::CONFLICT,
                "there are as many tokens as there may be",
            ),
            Self::ChainNotFound => ("chain_not_found", S::NOT_FOUND, "there is no such chain"),
            Self::CodeNotFound => ("code_not_found", S::NOT_FOUND, "there is no such code"),
            Self::VersionExists => (
                "version_exists",
                S::CONFLICT,
                "there is a version of that name already",
            ),
            Self::VersionInUse => ("version_in_use", S::CONFLICT, "the version is in use"),
            Self::NoPreviousVersion => (
                "no_previous_version",
                S::CONFLICT,
                "there is no version to go back to",
            ),
            Self::TooManyVersions => (
                "too_many_versions",
                S::CONFLICT,
                "there are as many versions as there may be",
            ),
            Self::NotGranted => (
                "not_granted",
                S::CONFLICT,
                "the code wants more than it is granted",
            ),
            Self::CodeRefused => (
                "code_refused",
                S::UNPROCESSABLE_ENTITY,
                "the code is not taken",
            ),
            Self::CodeDamaged => (
                "code_damaged",
                S::CONFLICT,
                "the source is not what was staged",
            ),
            Self::StaleEpoch => ("stale_epoch", S::CONFLICT, "the lease is no longer held"),
            Self::WrongState => (
                "wrong_state",
                S::CONFLICT,
                "the task's state does not allow it",
            ),
            Self::ResultTooLarge => (
                "result_too_large",
                S::PAYLOAD_TOO_LARGE,
                "the result is too large",
            ),
            Self::StepDiverged => (
                "step_diverged",
                S::CONFLICT,
                "the step is on record with another input",
            ),
            Self::ApprovalClosed => (
                "approval_closed",
                S::CONFLICT,
                "there is nothing left to decide",
            ),
            Self::WrongToken => (
                "wrong_token",
                S::FORBIDDEN,
                "the token belongs to another question",
            ),
            Self::OverBudget => (
                "over_budget",
                S::PAYMENT_REQUIRED,
                "a budget has not enough left",
            ),
            Self::Ordered => (
                "ordered",
                S::ACCEPTED,
                "the node that has the task was asked and has not answered yet",
            ),
            Self::LogFull => ("log_full", S::CONFLICT, "the task's log is full"),
            Self::PromotionRefused => (
                "promotion_refused",
                S::CONFLICT,
                "the tasks cannot be moved",
            ),
            Self::QueueFull => ("queue_full", S::TOO_MANY_REQUESTS, "the queue is full"),
            Self::Draining => (
                "draining",
                S::SERVICE_UNAVAILABLE,
                "the queue takes no new tasks",
            ),
            Self::Overloaded => (
                "overloaded",
                S::SERVICE_UNAVAILABLE,
                "too many requests are in flight",
            ),
            Self::Stopping => ("stopping", S::SERVICE_UNAVAILABLE, "the node is stopping"),
            Self::StoreUnavailable => (
                "store_unavailable",
                S::SERVICE_UNAVAILABLE,
                "the store cannot be used at present",
            ),
            Self::DiskFull => (
                "disk_full",
                S::INSUFFICIENT_STORAGE,
                "the node's disk is full",
            ),
            Self::TimedOut => (
                "timed_out",
                S::SERVICE_UNAVAILABLE,
                "the answer took too long",
            ),
            Self::WrongNode => (
                "wrong_node",
                S::MISDIRECTED_REQUEST,
                "another node has the task of this lease",
            ),
            Self::NodeAway => (
                "node_away",
                S::SERVICE_UNAVAILABLE,
                "a node that may have it is away",
            ),
            Self::Internal => (
                "internal",
                S::INTERNAL_SERVER_ERROR,
                "the request met a bug",
            ),
        }
    }

    /// The name in JSON and of the file that explains it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.facts().0
    }

    /// The status it is answered with.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.facts().1
    }
}
