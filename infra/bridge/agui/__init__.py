"""AG-UI 1.0: what CopilotKit and the clients of `@ag-ui/client` speak."""
