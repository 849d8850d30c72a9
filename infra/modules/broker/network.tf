# Clients reach the load balancer on 443, the load balancer reaches the tasks on the API port, the tasks reach their
# backends. There is no other rule: the admin port listens on the task's loopback and appears nowhere here.

resource "aws_security_group" "load_balancer" {
  name_prefix = "${var.name}-alb-"
  description = "Hearth ${var.name}: load balancer"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-alb" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "tasks" {
  name_prefix = "${var.name}-tasks-"
  description = "Hearth ${var.name}: broker tasks"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-tasks" })

  lifecycle {
    create_before_destroy = true
  }
}

locals {
  entry_ports = toset(var.http_redirect ? ["443", "80"] : ["443"])

  entries_from_groups = {
    for pair in setproduct(keys(var.client_security_groups), local.entry_ports) :
    "${pair[0]}-${pair[1]}" => { client = pair[0], port = tonumber(pair[1]) }
  }
  entries_from_ranges = {
    for pair in setproduct(var.client_cidr_blocks, local.entry_ports) :
    "${pair[0]}-${pair[1]}" => { cidr_block = pair[0], port = tonumber(pair[1]) }
  }
}

# --- Into the load balancer ---

resource "aws_vpc_security_group_ingress_rule" "client_group" {
  for_each = local.entries_from_groups

  security_group_id            = aws_security_group.load_balancer.id
  description                  = "Calls from ${each.value.client}"
  referenced_security_group_id = var.client_security_groups[each.value.client]
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "client_range" {
  for_each = local.entries_from_ranges

  security_group_id = aws_security_group.load_balancer.id
  description       = "Calls from ${each.value.cidr_block}"
  cidr_ipv4         = each.value.cidr_block
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
  tags              = var.tags
}

# --- From the load balancer to the tasks ---

resource "aws_vpc_security_group_egress_rule" "load_balancer_to_tasks" {
  security_group_id            = aws_security_group.load_balancer.id
  description                  = "To the brokers"
  referenced_security_group_id = aws_security_group.tasks.id
  ip_protocol                  = "tcp"
  from_port                    = local.api_port
  to_port                      = local.api_port
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "tasks_from_load_balancer" {
  security_group_id            = aws_security_group.tasks.id
  description                  = "From the load balancer"
  referenced_security_group_id = aws_security_group.load_balancer.id
  ip_protocol                  = "tcp"
  from_port                    = local.api_port
  to_port                      = local.api_port
  tags                         = var.tags
}

# --- Between the tasks: the one hop to the broker that owns a transaction ---

resource "aws_vpc_security_group_ingress_rule" "tasks_from_peers" {
  count = var.peer_forwarding ? 1 : 0

  security_group_id            = aws_security_group.tasks.id
  description                  = "From the other brokers"
  referenced_security_group_id = aws_security_group.tasks.id
  ip_protocol                  = "tcp"
  from_port                    = local.api_port
  to_port                      = local.api_port
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "tasks_to_peers" {
  count = var.peer_forwarding ? 1 : 0

  security_group_id            = aws_security_group.tasks.id
  description                  = "To the other brokers"
  referenced_security_group_id = aws_security_group.tasks.id
  ip_protocol                  = "tcp"
  from_port                    = local.api_port
  to_port                      = local.api_port
  tags                         = var.tags
}

# --- Out of the tasks ---

resource "aws_vpc_security_group_egress_rule" "tasks_to_backend" {
  for_each = var.backends

  security_group_id            = aws_security_group.tasks.id
  description                  = "To the backend ${each.key}"
  referenced_security_group_id = each.value.security_group_id
  cidr_ipv4                    = each.value.cidr_block
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "tasks_to_https" {
  for_each = var.https_egress_cidr_blocks

  security_group_id = aws_security_group.tasks.id
  description       = "To the image registry, Secrets Manager and CloudWatch Logs"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = var.tags
}
