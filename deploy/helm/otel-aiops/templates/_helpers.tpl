{{- define "otel-aiops.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "otel-aiops.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "otel-aiops.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "otel-aiops.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "otel-aiops.selector" -}}
app.kubernetes.io/name: {{ include "otel-aiops.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "otel-aiops.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "otel-aiops.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "otel-aiops.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "otel-aiops.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* HTTPS when the configuration gives the API a certificate. */}}
{{- define "otel-aiops.scheme" -}}
{{- if dig "api" "tls" nil .Values.config -}}https{{- else -}}http{{- end -}}
{{- end -}}

{{/* Not empty where the configuration says itself who may ask. */}}
{{- define "otel-aiops.guarded" -}}
{{- $api := dig "api" dict .Values.config | default dict -}}
{{- if or (hasKey $api "access") (hasKey $api "auth") -}}yes{{- end -}}
{{- end -}}

{{/* The configuration: that of the values, with the endpoints and paths of this chart. */}}
{{- define "otel-aiops.config" -}}
{{- $given := .Values.config -}}
{{- range $path := list (list "receivers" "otlp" "protocols" "grpc") (list "receivers" "otlp" "protocols" "http") (list "api") -}}
{{- $at := $given -}}
{{- range $key := $path -}}{{- $at = dig $key dict $at | default dict -}}{{- end -}}
{{- if hasKey $at "endpoint" -}}{{- fail (printf "config.%s.endpoint: the chart sets it, use ports" (join "." $path)) -}}{{- end -}}
{{- end -}}
{{- if dig "storage" "directory" "" $given -}}{{- fail "config.storage.directory: the chart sets it" -}}{{- end -}}
{{- $ports := .Values.ports -}}
{{- $grpc := dict "endpoint" (printf ":%d" (int $ports.grpc)) -}}
{{- $http := dict "endpoint" (printf ":%d" (int $ports.http)) -}}
{{- $own := dict
  "receivers" (dict "otlp" (dict "protocols" (dict "grpc" $grpc "http" $http)))
  "api" (dict "endpoint" (printf ":%d" (int $ports.api)))
  "storage" (dict "directory" "/var/lib/otel-aiops") -}}
{{/* People sign in with tokens, commands inside the pod may look, and Prometheus has a token of its own. */}}
{{- if not (include "otel-aiops.guarded" .) -}}
{{- $prometheus := dict "token" "${env:OTEL_AIOPS_PROMETHEUS_TOKEN}" -}}
{{- $access := dict "anonymous" "viewer" "programs" (dict "prometheus" $prometheus) -}}
{{- $own = mergeOverwrite $own (dict "api" (dict "access" $access)) -}}
{{- end -}}
{{- if .Values.objectives -}}
{{- $own = mergeOverwrite $own (dict "lifecycle" (dict "objectives" "/etc/otel-aiops/objectives")) -}}
{{- end -}}
{{- mergeOverwrite $own (deepCopy $given) | toYaml -}}
{{- end -}}
