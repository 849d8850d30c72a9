resource "aws_lb" "broker" {
  #checkov:skip=CKV_AWS_91:access logs are written as soon as access_logs_bucket names a bucket
  name                       = var.name
  load_balancer_type         = "application"
  internal                   = var.internal
  subnets                    = var.load_balancer_subnet_ids
  security_groups            = [aws_security_group.load_balancer.id]
  idle_timeout               = var.idle_timeout_seconds
  drop_invalid_header_fields = true
  desync_mitigation_mode     = "defensive"
  enable_deletion_protection = var.deletion_protection
  tags                       = var.tags

  dynamic "access_logs" {
    for_each = var.access_logs_bucket == null ? [] : [var.access_logs_bucket]

    content {
      bucket  = access_logs.value
      prefix  = var.name
      enabled = true
    }
  }
}

resource "aws_lb_target_group" "broker" {
  name_prefix                   = substr(var.name, 0, 6)
  vpc_id                        = var.vpc_id
  target_type                   = "ip"
  protocol                      = "HTTP"
  port                          = local.api_port
  load_balancing_algorithm_type = "least_outstanding_requests"
  deregistration_delay          = var.drain_seconds
  tags                          = var.tags

  # A broker that cannot serve is out after 15 s, and in again after 10.
  health_check {
    path                = var.health_check_path
    port                = "traffic-port"
    protocol            = "HTTP"
    matcher             = "200"
    interval            = 5
    timeout             = 3
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }

  # A listener cannot be without its target group: the new one comes first, hence the name prefix.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.broker.arn
  protocol          = "HTTPS"
  port              = 443
  ssl_policy        = var.ssl_policy
  certificate_arn   = var.certificate_arn
  tags              = var.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.broker.arn
  }
}

resource "aws_lb_listener" "http_redirect" {
  count = var.http_redirect ? 1 : 0

  load_balancer_arn = aws_lb.broker.arn
  protocol          = "HTTP"
  port              = 80
  tags              = var.tags

  default_action {
    type = "redirect"

    redirect {
      protocol    = "HTTPS"
      port        = "443"
      status_code = "HTTP_301"
    }
  }
}

resource "aws_route53_record" "broker" {
  count = var.dns_zone == null ? 0 : 1

  zone_id = var.dns_zone.id
  name    = var.hostname
  type    = "A"

  alias {
    name                   = aws_lb.broker.dns_name
    zone_id                = aws_lb.broker.zone_id
    evaluate_target_health = true
  }
}
