"""Responses: what is done about incidents by playbooks, under guards, journalled, verified and audited."""
