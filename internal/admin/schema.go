package admin

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	"github.com/danielgtaylor/huma/v2"
)

// documentPath is where the OpenAPI document is.
const documentPath = "/v1/openapi.json"

// schemaConfig is for an API that answers in JSON and serves nothing but its routes.
func schemaConfig(program string) huma.Config {
	c := huma.DefaultConfig("ambassadord", program)
	c.Info.Description = "What the daemon knows. Fields are added, never changed; pass over those that you do not know."
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", ""
	c.CreateHooks = nil // which would add a field $schema to each answer
	c.RejectUnknownQueryParameters = true
	return c
}

// failureResponse is what any route may answer.
func failureResponse(api huma.API) *huma.Response {
	return &huma.Response{
		Description: "The request is refused, or cannot be answered",
		Content: map[string]*huma.MediaType{
			"application/problem+json": {Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Failure](), true, "")},
		},
	}
}

// readyResponses is what /readyz answers beside 200.
func readyResponses(api huma.API) map[string]*huma.Response {
	return map[string]*huma.Response{"503": {
		Description: "Not ready",
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Readiness](), true, "")},
		},
	}}
}

// documentOf is the OpenAPI document of an API whose routes are all registered. Its schemas let
// programs pass over fields that are added later, and say that lists are never null. What is sent to us may
// have no field that we do not know: it would be a mistake that nobody notices.
func documentOf(api huma.API) []byte {
	schemas := api.OpenAPI().Components.Schemas.Map()
	strict := map[string]bool{}
	for _, path := range api.OpenAPI().Paths {
		if path.Post != nil && path.Post.RequestBody != nil {
			for _, content := range path.Post.RequestBody.Content {
				strict[content.Schema.Ref] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		if !strict["#/components/schemas/"+name] {
			loosen(schemas[name])
		}
	}
	document, err := json.Marshal(api.OpenAPI())
	if err != nil { // of our own types, which a test has marshalled
		return []byte("{}")
	}
	return document
}

func loosen(s *huma.Schema) {
	if s.AdditionalProperties == false {
		s.AdditionalProperties = true
	}
	for _, property := range s.Properties {
		if property.Type == huma.TypeArray {
			property.Nullable = false
		}
	}
}
