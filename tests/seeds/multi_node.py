from laila.maif import create_maif, load_maif
import os
import json
from datetime import datetime

class DistributedAgent:
    """Agent that coordinates with others via shared MAIF artifacts."""
    
    def __init__(self, agent_id: str, shared_path: str):
        self.agent_id = agent_id
        self.shared_path = shared_path
        self.state_file = f"{shared_path}/agent_states.maif"
        
        os.makedirs(shared_path, exist_ok=True)
    
    def register(self):
        """Register this agent in the shared state."""
        # Load or create shared state
        if os.path.exists(self.state_file):
            state = load_maif(self.state_file)
        else:
            state = create_maif("agent-states")
        
        # Add registration
        state.add_text(
            json.dumps({
                "agent_id": self.agent_id,
                "registered_at": datetime.now().isoformat(),
                "status": "active"
            }),
            title=f"Agent Registration: {self.agent_id}"
        )
        
        state.save(self.state_file, sign=True)
    
    def get_active_agents(self) -> list:
        """Get list of active agents."""
        if not os.path.exists(self.state_file):
            return []
        
        state = load_maif(self.state_file)
        content = state.get_content_list()
        
        agents = []
        for item in content:
            if "Agent Registration" in item.get("title", ""):
                try:
                    data = json.loads(item.get("text", "{}"))
                    if data.get("status") == "active":
                        agents.append(data)
                except:
                    pass
        
        return agents
    
    def publish_result(self, task_id: str, result: dict):
        """Publish a result for other agents to see."""
        result_file = f"{self.shared_path}/results/{task_id}.maif"
        os.makedirs(os.path.dirname(result_file), exist_ok=True)
        
        artifact = create_maif(f"result-{task_id}")
        artifact.add_text(
            json.dumps({
                "task_id": task_id,
                "agent_id": self.agent_id,
                "result": result,
                "timestamp": datetime.now().isoformat()
            }),
            title=f"Result: {task_id}"
        )
        artifact.save(result_file, sign=True)
    
    def get_result(self, task_id: str) -> dict:
        """Get a result published by any agent."""
        result_file = f"{self.shared_path}/results/{task_id}.maif"
        
        if not os.path.exists(result_file):
            return None
        
        artifact = load_maif(result_file)
        content = artifact.get_content_list()
        
        if content:
            return json.loads(content[0].get("text", "{}"))
        return None

# Usage
agent1 = DistributedAgent("worker-1", "/mnt/shared/coordination")
agent2 = DistributedAgent("worker-2", "/mnt/shared/coordination")

# Register both agents
agent1.register()
agent2.register()

# Agent 1 publishes result
agent1.publish_result("task-001", {"output": "completed", "data": [1, 2, 3]})

# Agent 2 retrieves result
result = agent2.get_result("task-001")
print(f"Result from {result['agent_id']}: {result['result']}")
