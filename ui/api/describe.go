package api

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

func (s *Server) description(w http.ResponseWriter, r *http.Request) error {
	return answer(w, http.StatusOK, json.RawMessage(s.openapi))
}

// OpenAPI gives the description of the API as OpenAPI 3.1 JSON, made from the table of routes and the Go types.
func OpenAPI(version string) ([]byte, error) { return describe(routes(), version) }

type object = map[string]any

func describe(table []route, version string) ([]byte, error) {
	d := describer{schemas: object{}}
	paths := object{}
	for _, row := range table {
		path := plainPath(row.path)
		item, _ := paths[path].(object)
		if item == nil {
			item = object{}
			paths[path] = item
		}
		item[strings.ToLower(row.method)] = d.operation(row)
	}
	d.schema(reflect.TypeFor[Error]())
	doc := object{
		"openapi": "3.1.0",
		"info": object{"title": "cvlab", "version": version,
			"description": "One queue for the GPUs of a lab. Times are RFC 3339 in UTC, durations seconds, sizes bytes."},
		"paths":      paths,
		"components": object{"schemas": d.schemas, "securitySchemes": object{"token": object{"type": "http", "scheme": "bearer"}}},
		"security":   []object{{"token": []string{}}},
	}
	data, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return nil, fmt.Errorf("describe the API: %w", err)
	}
	return data, nil
}

// plainPath takes the patterns out of a route's path: {id:[0-9]+} becomes {id}.
func plainPath(path string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(path, "/") {
		if name, _, found := strings.Cut(part, ":"); found && strings.HasPrefix(part, "{") {
			part = name + "}"
		}
		b.WriteString("/" + part)
	}
	return strings.TrimPrefix(b.String(), "/")
}

type describer struct{ schemas object }

func (d describer) operation(row route) object {
	op := object{"summary": row.summary, "responses": d.responses(row)}
	if row.role == anyone {
		op["security"] = []object{}
	} else {
		op["x-role"] = string(row.role)
	}
	if row.in != nil {
		op["requestBody"] = object{"content": object{"application/json": object{"schema": d.schema(reflect.TypeOf(row.in))}}}
	}
	var params []object
	for part := range strings.SplitSeq(plainPath(row.path), "/") {
		if name, found := strings.CutPrefix(part, "{"); found {
			params = append(params, object{"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": object{"type": "string"}})
		}
	}
	for _, name := range row.query {
		params = append(params, object{"name": name, "in": "query", "schema": object{"type": "string"}})
	}
	switch {
	case row.role == anyone:
	case row.method == http.MethodGet:
		params = append(params, object{"name": "consistent", "in": "query", "description": "1 asks the leader first", "schema": object{"type": "string"}})
	default:
		params = append(params, object{"name": headerKey, "in": "header", "description": "makes a repeat harmless", "schema": object{"type": "string"}})
	}
	if len(params) > 0 {
		op["parameters"] = params
	}
	return op
}

func (d describer) responses(row route) object {
	status, content := "200", object{}
	switch {
	case row.out != nil:
		content["application/json"] = object{"schema": d.schema(reflect.TypeOf(row.out))}
	case row.stream:
		content["text/event-stream"] = object{}
	}
	if _, makes := row.out.(Added); makes {
		status = "201"
	}
	if _, makes := row.out.(NewToken); makes {
		status = "201"
	}
	good := object{"description": "done"}
	if len(content) > 0 {
		good["content"] = content
	}
	return object{status: good, "default": object{"description": "refused", "content": object{
		"application/problem+json": object{"schema": object{"$ref": "#/components/schemas/Error"}}}}}
}

// schema gives the JSON schema of a type; named structs become components.
func (d describer) schema(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[Duration]():
		return object{"type": []string{"number", "string"}, "description": "seconds, or text such as 12h"}
	case reflect.TypeFor[Params]():
		return object{"type": "object"}
	case reflect.TypeFor[json.RawMessage]():
		return object{}
	case reflect.TypeFor[fsm.Status]():
		return object{"type": "string", "enum": fsm.Statuses()}
	}
	if t.Kind() != reflect.Pointer && t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return object{"anyOf": []object{d.schema(t.Elem()), {"type": "null"}}}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{"type": "string", "contentEncoding": "base64"}
		}
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.schema(t.Elem())}
	case reflect.Struct:
		return d.component(t)
	case reflect.Interface:
		return object{}
	}
	return object{"type": "integer"}
}

func (d describer) component(t reflect.Type) object {
	name := strings.ToUpper(t.Name()[:1]) + t.Name()[1:]
	ref := object{"$ref": "#/components/schemas/" + name}
	if _, known := d.schemas[name]; known {
		return ref
	}
	s := object{"type": "object"}
	d.schemas[name] = s // before the fields, which may name it again
	properties, required := object{}, []string{}
	for _, f := range reflect.VisibleFields(t) {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || tag == "-" || !f.IsExported() {
			continue
		}
		properties[tag] = d.schema(f.Type)
		if !strings.Contains(options, "omit") {
			required = append(required, tag)
		}
	}
	slices.Sort(required)
	s["properties"], s["required"] = properties, required
	return ref
}
