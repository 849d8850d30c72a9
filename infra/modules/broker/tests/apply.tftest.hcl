# How the parts hang together once ids exist. Nothing is created: the provider is a mock.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_resource "aws_lb" {
    defaults = {
      arn        = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/hearth/1"
      arn_suffix = "app/hearth/1"
      dns_name   = "load-balancer.example.com"
      zone_id    = "Z215JYRZR1TBD5"
    }
  }
  mock_resource "aws_lb_target_group" {
    defaults = {
      arn        = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/hearth/2"
      arn_suffix = "targetgroup/hearth/2"
    }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/hearth/hearth" }
  }
}

variables {
  vpc_id                   = "vpc-1"
  task_subnet_ids          = ["subnet-1", "subnet-2"]
  load_balancer_subnet_ids = ["subnet-1", "subnet-2"]
  image                    = "registry.example.com/hearth@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  hostname                 = "hearth.internal.example.com"
  dns_zone                 = { id = "Z1" }
  certificate_arn          = "arn:aws:acm:eu-central-1:123456789012:certificate/1"
  config_secret_arn        = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hearth/config-AbCdEf"
  client_security_groups   = { functions = "sg-functions" }
  backends                 = { app = { port = 5432, security_group_id = "sg-database" } }
}

run "the_parts_are_joined" {
  command = apply

  assert {
    condition     = one(aws_ecs_service.broker.load_balancer).target_group_arn == aws_lb_target_group.broker.arn
    error_message = "The service registers elsewhere."
  }
  assert {
    condition     = aws_lb_listener.https.default_action[0].target_group_arn == aws_lb_target_group.broker.arn
    error_message = "The listener forwards elsewhere."
  }
  assert {
    condition     = aws_appautoscaling_policy.requests.target_tracking_scaling_policy_configuration[0].predefined_metric_specification[0].resource_label == "app/hearth/1/targetgroup/hearth/2"
    error_message = "Scaling counts the requests of something else."
  }
  assert {
    condition     = aws_route53_record.broker[0].alias[0].name == aws_lb.broker.dns_name
    error_message = "The name leads elsewhere."
  }
}

run "tasks_hear_the_load_balancer_and_their_peers_only" {
  command = apply

  assert {
    condition     = aws_ecs_service.broker.network_configuration[0].security_groups == toset([aws_security_group.tasks.id])
    error_message = "The tasks are in other security groups."
  }
  assert {
    condition = toset([
      for rule in concat([aws_vpc_security_group_ingress_rule.tasks_from_load_balancer], aws_vpc_security_group_ingress_rule.tasks_from_peers) :
      rule.referenced_security_group_id if rule.security_group_id == aws_security_group.tasks.id && rule.cidr_ipv4 == null
    ]) == toset([aws_security_group.load_balancer.id, aws_security_group.tasks.id])
    error_message = "Somebody else reaches the tasks."
  }
}

run "the_log_role_writes_one_group" {
  command = apply

  assert {
    condition     = jsondecode(aws_iam_role_policy.execution_logs.policy).Statement[0].Resource == ["arn:aws:logs:eu-central-1:123456789012:log-group:/hearth/hearth:*"]
    error_message = "The execution role writes to other log groups."
  }
}

run "outputs_name_what_callers_need" {
  command = apply

  assert {
    condition     = output.url == "https://hearth.internal.example.com"
    error_message = "The URL is not the given name."
  }
  assert {
    condition     = output.security_group_id == aws_security_group.tasks.id && output.load_balancer_security_group_id == aws_security_group.load_balancer.id
    error_message = "The security groups are swapped."
  }
  assert {
    condition     = output.service_name == "hearth" && output.log_group_name == "/hearth/hearth" && output.cluster_name == "hearth"
    error_message = "The names are not those of the resources."
  }
  assert {
    condition     = output.task_role_arn == aws_iam_role.task.arn && output.task_role_arn != aws_iam_role.execution.arn
    error_message = "The task role is not the broker's."
  }
}
