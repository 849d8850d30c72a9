module "broker" {
  source = "../../modules/broker"

  name                     = var.name
  vpc_id                   = var.vpc_id
  task_subnet_ids          = var.private_subnet_ids
  load_balancer_subnet_ids = var.private_subnet_ids

  image               = var.broker_image
  ecr_repository_arns = [var.broker_repository_arn]

  config_secret_arn  = var.config_secret_arn
  secret_environment = { APP_DB_PASSWORD = var.database_password_secret_arn }

  hostname        = var.hostname
  dns_zone        = { id = var.dns_zone_id }
  certificate_arn = var.certificate_arn

  client_security_groups = { function = aws_security_group.function.id }
  backends = {
    app  = { port = 5432, security_group_id = var.database_security_group_id }
    main = { port = 6379, security_group_id = var.redis_security_group_id }
  }
}

# The other half of each backend's rule: the database and Redis admit the brokers, and nothing else has to.

resource "aws_vpc_security_group_ingress_rule" "database_from_broker" {
  security_group_id            = var.database_security_group_id
  description                  = "Hearth ${var.name}"
  referenced_security_group_id = module.broker.security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_vpc_security_group_ingress_rule" "redis_from_broker" {
  security_group_id            = var.redis_security_group_id
  description                  = "Hearth ${var.name}"
  referenced_security_group_id = module.broker.security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
}
