locals {
  api_port   = 8432
  admin_port = 8433

  # Set here whatever the configuration says: the API where the load balancer finds it, the admin listener where
  # nothing outside the task does. Metrics are read by a collector in the same task, or not at all.
  listen_environment = {
    HEARTH__SERVER__LISTEN       = "0.0.0.0:${local.api_port}"
    HEARTH__SERVER__ADMIN_LISTEN = "127.0.0.1:${local.admin_port}"
  }
  fixed_environment_names = concat(keys(local.listen_environment), ["HEARTH_CONFIG_TOML"])

  environment = merge(var.environment, local.listen_environment)
  secrets     = merge(var.secret_environment, { HEARTH_CONFIG_TOML = var.config_secret_arn })

  cluster_name = var.cluster_name == null ? aws_ecs_cluster.own[0].name : var.cluster_name

  container = {
    name      = "hearth"
    image     = var.image
    essential = true
    command   = ["serve"]

    user                   = var.user
    readonlyRootFilesystem = true
    linuxParameters        = { capabilities = { drop = ["ALL"] } }
    ulimits                = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]

    portMappings = [{ name = "api", containerPort = local.api_port, protocol = "tcp" }]
    environment  = [for name, value in local.environment : { name = name, value = value }]
    secrets      = [for name, arn in local.secrets : { name = name, valueFrom = arn }]

    # SIGTERM starts the drain; the kill comes only after it should be over.
    stopTimeout = var.drain_seconds + 10

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-region        = data.aws_region.current.region
        awslogs-group         = aws_cloudwatch_log_group.broker.name
        awslogs-stream-prefix = "broker"
        # A log service that is away must not hold requests up: lines are dropped once this is full.
        mode            = "non-blocking"
        max-buffer-size = "4m"
      }
    }
  }
}

data "aws_region" "current" {}

resource "aws_ecs_cluster" "own" {
  count = var.cluster_name == null ? 1 : 0

  name = var.name
  tags = var.tags

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_task_definition" "broker" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  container_definitions    = jsonencode([local.container])
  tags                     = var.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }
}

resource "aws_ecs_service" "broker" {
  name                          = var.name
  cluster                       = local.cluster_name
  task_definition               = aws_ecs_task_definition.broker.arn
  launch_type                   = "FARGATE"
  platform_version              = "LATEST"
  desired_count                 = var.min_tasks
  availability_zone_rebalancing = "ENABLED"
  enable_ecs_managed_tags       = true
  propagate_tags                = "SERVICE"
  tags                          = var.tags

  # A new broker is in before an old one goes; a deployment that does not come up is undone.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 60

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.task_subnet_ids
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.broker.arn
    container_name   = local.container.name
    container_port   = local.api_port
  }

  # The count belongs to autoscaling from the first minute on.
  lifecycle {
    ignore_changes = [desired_count]
  }

  # A target group takes targets only once a listener uses it, and a task starts only once its role may read its secrets.
  depends_on = [
    aws_lb_listener.https,
    aws_iam_role_policy.execution_secrets,
    aws_iam_role_policy.execution_logs,
    aws_iam_role_policy.execution_image,
  ]
}
