# Inputs that must be refused, each with the variable that refuses it.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
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
  backends                 = { app = { port = 5432, security_group_id = "sg-database" } }
}

run "a_name_too_long_for_a_load_balancer" {
  command = plan
  variables {
    name = "a-name-that-is-much-too-long-for-it"
  }
  expect_failures = [var.name]
}

run "the_latest_tag" {
  command = plan
  variables {
    image = "registry.example.com/hearth:latest"
  }
  expect_failures = [var.image]
}

run "an_image_without_a_tag" {
  command = plan
  variables {
    image = "registry.example.com/hearth"
  }
  expect_failures = [var.image]
}

run "one_subnet_only" {
  command = plan
  variables {
    task_subnet_ids = ["subnet-1"]
  }
  expect_failures = [var.task_subnet_ids]
}

run "a_wildcard_secret" {
  command = plan
  variables {
    config_secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*"
  }
  expect_failures = [var.config_secret_arn]
}

run "a_wildcard_in_secret_environment" {
  command = plan
  variables {
    secret_environment = { APP_DB_PASSWORD = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hearth/*" }
  }
  expect_failures = [var.secret_environment]
}

run "a_plain_password" {
  command = plan
  variables {
    environment = { APP_DB_PASSWORD = "x" }
  }
  expect_failures = [var.environment]
}

run "an_admin_listener_of_ones_own" {
  command = plan
  variables {
    environment = { HEARTH__SERVER__ADMIN_LISTEN = "0.0.0.0:8433" }
  }
  expect_failures = [var.environment]
}

run "an_admin_listener_from_a_secret" {
  command = plan
  variables {
    secret_environment = { HEARTH__SERVER__ADMIN_LISTEN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:a-AbCdEf" }
  }
  expect_failures = [var.secret_environment]
}

run "root" {
  command = plan
  variables {
    user = "0:0"
  }
  expect_failures = [var.user]
}

run "memory_that_fargate_does_not_offer" {
  command = plan
  variables {
    memory = 1024
  }
  expect_failures = [var.memory]
}

run "a_drain_past_the_kill" {
  command = plan
  variables {
    drain_seconds = 120
  }
  expect_failures = [var.drain_seconds]
}

run "an_internal_broker_for_everyone" {
  command = plan
  variables {
    client_cidr_blocks = ["0.0.0.0/0"]
  }
  expect_failures = [var.client_cidr_blocks]
}

run "a_backend_without_an_address" {
  command = plan
  variables {
    backends = { app = { port = 5432 } }
  }
  expect_failures = [var.backends]
}

run "a_backend_with_two_addresses" {
  command = plan
  variables {
    backends = { app = { port = 5432, security_group_id = "sg-1", cidr_block = "10.0.0.0/8" } }
  }
  expect_failures = [var.backends]
}

run "a_policy_with_old_tls" {
  command = plan
  variables {
    ssl_policy = "ELBSecurityPolicy-TLS13-1-0-2021-06"
  }
  expect_failures = [var.ssl_policy]
}

run "fewer_tasks_at_most_than_at_least" {
  command = plan
  variables {
    max_tasks = 1
  }
  expect_failures = [var.max_tasks]
}

run "a_health_check_on_another_path" {
  command = plan
  variables {
    health_check_path = "/metrics"
  }
  expect_failures = [var.health_check_path]
}

run "a_retention_that_does_not_exist" {
  command = plan
  variables {
    log_retention_days = 31
  }
  expect_failures = [var.log_retention_days]
}
