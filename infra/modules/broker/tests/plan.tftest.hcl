# What the module plans from its smallest input. Nothing is created: the provider is a mock.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
}

variables {
  vpc_id                   = "vpc-1"
  task_subnet_ids          = ["subnet-1", "subnet-2"]
  load_balancer_subnet_ids = ["subnet-1", "subnet-2"]
  image                    = "registry.example.com/hearth:1.0.0"
  hostname                 = "hearth.internal.example.com"
  certificate_arn          = "arn:aws:acm:eu-central-1:123456789012:certificate/1"
  config_secret_arn        = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hearth/config-AbCdEf"
  secret_environment       = { APP_DB_PASSWORD = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hearth/app-AbCdEf:password::" }
  client_security_groups   = { functions = "sg-functions" }
  backends = {
    app  = { port = 5432, security_group_id = "sg-database" }
    main = { port = 6379, cidr_block = "10.0.8.0/24" }
  }
}

run "the_container_is_locked_down" {
  command = plan

  assert {
    condition     = jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].readonlyRootFilesystem
    error_message = "The root filesystem can be written."
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].user == "65532:65532"
    error_message = "The broker does not run as its own user."
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].linuxParameters.capabilities.drop == ["ALL"]
    error_message = "The container keeps capabilities."
  }
  assert {
    condition     = !aws_ecs_service.broker.network_configuration[0].assign_public_ip
    error_message = "Tasks have public addresses."
  }
}

run "the_admin_port_is_nowhere" {
  command = plan

  assert {
    condition     = [for port in jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].portMappings : port.containerPort] == [8432]
    error_message = "The container publishes another port than the API's."
  }
  assert {
    condition     = { for entry in jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].environment : entry.name => entry.value }["HEARTH__SERVER__ADMIN_LISTEN"] == "127.0.0.1:8433"
    error_message = "The admin listener is not on the loopback."
  }
  assert {
    condition = alltrue([
      for rule in concat(
        values(aws_vpc_security_group_ingress_rule.client_group),
        values(aws_vpc_security_group_ingress_rule.client_range),
        [aws_vpc_security_group_ingress_rule.tasks_from_load_balancer, aws_vpc_security_group_egress_rule.load_balancer_to_tasks],
        aws_vpc_security_group_ingress_rule.tasks_from_peers,
        aws_vpc_security_group_egress_rule.tasks_to_peers,
      ) : rule.ip_protocol == "tcp" && rule.from_port == rule.to_port && contains([443, 8432], rule.to_port)
    ])
    error_message = "A rule admits another port than 443 or 8432."
  }
  assert {
    condition     = aws_lb_target_group.broker.port == 8432 && aws_lb_listener.https.port == 443 && length(aws_lb_listener.http_redirect) == 0
    error_message = "The load balancer leads to another port than the API's."
  }
}

run "only_the_given_secrets_can_be_read" {
  command = plan

  assert {
    condition = jsondecode(aws_iam_role_policy.execution_secrets.policy).Statement == [{
      Sid    = "ReadSecrets"
      Effect = "Allow"
      Action = ["secretsmanager:GetSecretValue"]
      Resource = [
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hearth/app-AbCdEf",
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hearth/config-AbCdEf",
      ]
    }]
    error_message = "The execution role reads more, or less, than the two given secrets."
  }
  assert {
    condition = {
      for entry in jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].secrets : entry.name => entry.valueFrom
      } == {
      APP_DB_PASSWORD    = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hearth/app-AbCdEf:password::"
      HEARTH_CONFIG_TOML = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hearth/config-AbCdEf"
    }
    error_message = "The container gets other secrets than those given."
  }
  assert {
    condition     = length(aws_iam_role_policy.execution_image) == 0
    error_message = "The role may pull images although no repository was given."
  }
}

run "a_given_key_is_used_through_secrets_manager_only" {
  command = plan

  variables {
    secret_kms_key_arns = ["arn:aws:kms:eu-central-1:123456789012:key/1"]
    ecr_repository_arns = ["arn:aws:ecr:eu-central-1:123456789012:repository/hearth"]
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.execution_secrets.policy).Statement[1] == {
      Sid       = "DecryptSecrets"
      Effect    = "Allow"
      Action    = ["kms:Decrypt"]
      Resource  = ["arn:aws:kms:eu-central-1:123456789012:key/1"]
      Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.eu-central-1.amazonaws.com" } }
    }
    error_message = "The key can be used for more than the secrets."
  }
  assert {
    condition     = jsondecode(aws_iam_role_policy.execution_image[0].policy).Statement[1].Resource == ["arn:aws:ecr:eu-central-1:123456789012:repository/hearth"]
    error_message = "Images can be pulled from other repositories."
  }
}

run "the_load_balancer_is_internal_and_speaks_tls_1_3" {
  command = plan

  assert {
    condition     = aws_lb.broker.internal && aws_lb.broker.drop_invalid_header_fields && aws_lb.broker.enable_deletion_protection
    error_message = "The load balancer is public or lax."
  }
  assert {
    condition     = aws_lb_listener.https.protocol == "HTTPS" && aws_lb_listener.https.ssl_policy == "ELBSecurityPolicy-TLS13-1-3-2021-06"
    error_message = "The listener admits older TLS."
  }
  assert {
    condition     = aws_lb_target_group.broker.health_check[0].path == "/readyz"
    error_message = "Readiness is not what the load balancer asks for."
  }
}

run "stopping_leaves_time_to_drain" {
  command = plan

  variables {
    drain_seconds = 45
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].stopTimeout == 55
    error_message = "The task is killed before its drain is over."
  }
  assert {
    condition     = tonumber(aws_lb_target_group.broker.deregistration_delay) == 45
    error_message = "The load balancer does not wait for what is in flight."
  }
  assert {
    condition     = aws_ecs_service.broker.deployment_circuit_breaker[0].enable && aws_ecs_service.broker.deployment_circuit_breaker[0].rollback
    error_message = "A failing deployment is not undone."
  }
  assert {
    condition     = aws_ecs_service.broker.deployment_minimum_healthy_percent == 100
    error_message = "A deployment lowers the number of brokers."
  }
}

run "tasks_reach_their_backends_and_https" {
  command = plan

  assert {
    condition = jsonencode({
      for name, rule in aws_vpc_security_group_egress_rule.tasks_to_backend :
      name => [rule.to_port, rule.referenced_security_group_id, rule.cidr_ipv4]
      }) == jsonencode({
      app  = [5432, "sg-database", null]
      main = [6379, null, "10.0.8.0/24"]
    })
    error_message = "The rules to the backends are not the given ones."
  }
  assert {
    condition     = [for rule in aws_vpc_security_group_egress_rule.tasks_to_https : rule.to_port] == [443]
    error_message = "Tasks leave the VPC on another port than 443."
  }
}

run "scaling_stays_between_two_and_ten" {
  command = plan

  assert {
    condition     = aws_appautoscaling_target.tasks.min_capacity == 2 && aws_appautoscaling_target.tasks.max_capacity == 10
    error_message = "The default bounds are not 2 and 10."
  }
  assert {
    condition = toset([
      for policy in [aws_appautoscaling_policy.cpu, aws_appautoscaling_policy.requests] :
      policy.target_tracking_scaling_policy_configuration[0].predefined_metric_specification[0].predefined_metric_type
    ]) == toset(["ECSServiceAverageCPUUtilization", "ALBRequestCountPerTarget"])
    error_message = "Scaling does not follow CPU and requests."
  }
}

run "an_existing_cluster_is_used" {
  command = plan

  variables {
    cluster_name = "shared"
  }

  assert {
    condition     = length(aws_ecs_cluster.own) == 0 && aws_ecs_service.broker.cluster == "shared"
    error_message = "A cluster is made although one was named."
  }
  assert {
    condition     = aws_appautoscaling_target.tasks.resource_id == "service/shared/hearth"
    error_message = "Scaling points at another service."
  }
}

run "redirect_opens_port_80_and_only_redirects" {
  command = plan

  variables {
    http_redirect = true
  }

  assert {
    condition     = toset(keys(aws_vpc_security_group_ingress_rule.client_group)) == toset(["functions-80", "functions-443"])
    error_message = "Ports 80 and 443 are not both open to the given group."
  }
  assert {
    condition     = aws_lb_listener.http_redirect[0].default_action[0].redirect[0].protocol == "HTTPS"
    error_message = "Port 80 serves something."
  }
}
