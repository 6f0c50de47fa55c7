//! `terrarium mcp RUN`: the run as tools for an interactive agent.
//!
//! An agent reads the task, the leaderboard and candidates, checks a draft,
//! submits a proposal and waits for its score. It sees what any proposer
//! sees, and a submission goes through the run's inbox like a person's: it is
//! compiled in the jail, evaluated behind glass and judged by the gate.
//! Answers are typed and bounded; text of candidates is cut and cleaned.

mod desk;
mod tools;
mod view;

pub use desk::Desk;

use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use std::net::SocketAddr;
use std::sync::Arc;

/// The server: what it does is in [`Desk`].
#[derive(Clone)]
pub struct Server {
    desk: Arc<Desk>,
}

impl Server {
    /// Serves this run.
    pub fn new(desk: Arc<Desk>) -> Self {
        Self { desk }
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("terrarium", env!("CARGO_PKG_VERSION")))
            .with_instructions(tools::INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, rmcp::ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::all()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, rmcp::ErrorData> {
        let name = request.name.to_string();
        if !tools::all().iter().any(|tool| tool.name == request.name) {
            return Err(rmcp::ErrorData::invalid_params(format!("there is no tool `{name}`"), None));
        }
        let arguments = serde_json::Value::Object(request.arguments.unwrap_or_default());
        let desk = self.desk.clone();
        // Tools read files, compile and wait.
        let done = tokio::task::spawn_blocking(move || desk.call(&name, arguments)).await;
        let result = match done {
            Ok(Ok(value)) => CallToolResult::structured(value),
            Ok(Err(problem)) => CallToolResult::error(vec![ContentBlock::text(problem)]),
            Err(_) => return Err(rmcp::ErrorData::internal_error("the tool panicked", None)),
        };
        Ok(result.into())
    }
}

/// Serves on standard input and output until the other side goes.
pub async fn serve_stdio(desk: Arc<Desk>) -> Result<(), String> {
    let service = rmcp::serve_server(Server::new(desk), rmcp::transport::stdio())
        .await
        .map_err(|e| format!("the handshake failed: {e}"))?;
    service.waiting().await.map(drop).map_err(|e| e.to_string())
}

/// Serves streamable HTTP at `/mcp` until `stop` ends. `listener` must be on
/// the loopback interface: foreign Host and Origin headers are refused.
pub async fn serve_http(
    desk: Arc<Desk>,
    listener: tokio::net::TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), String> {
    let address: SocketAddr = listener.local_addr().map_err(|e| e.to_string())?;
    if !address.ip().is_loopback() {
        return Err(format!("{address} is not on the loopback interface"));
    }
    // A page that this server's own address gave may ask; none of another.
    let own = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("http://{host}:{}", address.port()));
    let config = StreamableHttpServerConfig::default().with_allowed_origins(own).enforce_origin_validation();
    let service = StreamableHttpService::new(
        move || Ok(Server::new(desk.clone())),
        Arc::new(LocalSessionManager::default()),
        config,
    );
    let router = axum::Router::new().nest_service("/mcp", service);
    axum::serve(listener, router).with_graceful_shutdown(stop).await.map_err(|e| e.to_string())
}
