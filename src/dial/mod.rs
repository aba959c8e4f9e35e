//! How our own ends (agent, connector, gateway) reach a gateway or a broker.
